package inspect

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// byHop are the fields that belong to one connection, or that who sends the message
// writes anew.
var byHop = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true,
	"upgrade": true, "content-length": true, "expect": true, "http2-settings": true,
}

// byEdge are the fields that the edge adds.
var byEdge = map[string]bool{
	"forwarded": true, "x-forwarded-for": true, "x-forwarded-host": true, "x-forwarded-proto": true, "x-real-ip": true,
}

// Curl returns a line of shell that sends the request of x to its public URL. Without
// secrets, credentials are hidden in it. What isn't repeatable is an error.
func (x *Exchange) Curl(secrets bool) (string, error) {
	if err := x.repeatable(); err != nil {
		return "", err
	}
	v := viewer{secrets: secrets}
	var b strings.Builder
	body := x.Request.Body
	if !secrets && x.Request.Encoding == "" {
		body, _, _ = v.content(&x.Request)
	}
	binary := len(body) > 0 && (!looksLikeText(body) || x.Request.Encoding != "")
	if binary {
		b.WriteString("echo " + base64.StdEncoding.EncodeToString(body) + " | base64 -d | ")
	}
	b.WriteString("curl --path-as-is --globoff")
	if x.Method == http.MethodHead {
		b.WriteString(" --head")
	} else {
		b.WriteString(" -X " + quote(x.Method))
	}
	b.WriteString(" " + quote(v.target(x.URL())))
	for _, f := range v.fields(fieldsOf(x.Request.Head)) {
		name, value := f[0], f[1]
		switch lower := strings.ToLower(name); {
		case byHop[lower] || byEdge[lower] || lower == "host":
		case value == "":
			b.WriteString(" \\\n  -H " + quote(name+";"))
		default:
			b.WriteString(" \\\n  -H " + quote(name+": "+value))
		}
	}
	switch {
	case binary:
		b.WriteString(" \\\n  --data-binary @-")
	case len(body) > 0:
		b.WriteString(" \\\n  --data-raw " + quote(string(body)))
	}
	return b.String() + "\n", nil
}

func fieldsOf(head string) string {
	_, fields := cutLine(head)
	return fields
}

// quote makes one word of the POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
