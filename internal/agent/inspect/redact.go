package inspect

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/url"
	"regexp"
	"strings"
)

// Hidden stands where a credential was.
const Hidden = "••••••"

// secretWords make a name that of a credential when they are part of it, letters and
// digits alone; secretNames when they are all of it.
var secretWords = []string{
	"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "authkey", "credential",
	"sessionid", "jwt", "creditcard", "cardnumber",
}

var secretNames = map[string]bool{
	"key": true, "sig": true, "signature": true, "auth": true, "code": true, "pwd": true, "pass": true, "pin": true,
	"sid": true, "session": true, "otp": true, "cvv": true, "cvc": true, "assertion": true, "xamzsignature": true,
	"xgoogsignature": true,
}

// isSecret reports whether what has this name is to be hidden.
func isSecret(name string) bool {
	name = strings.Map(func(c rune) rune {
		switch {
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			return c
		}
		return -1
	}, name)
	if secretNames[name] {
		return true
	}
	for _, w := range secretWords {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// Field of a head.
type Field struct{ Name, Value string }

// Redact hides the credentials in a field's value.
func (f Field) Redact() Field {
	switch name := strings.ToLower(f.Name); {
	case name == "authorization" || name == "proxy-authorization":
		scheme, _, ok := strings.Cut(f.Value, " ")
		if f.Value = Hidden; ok {
			f.Value = scheme + " " + Hidden
		}
	case name == "cookie":
		pairs := strings.Split(f.Value, ";")
		for i, p := range pairs {
			pairs[i] = hideValue(p)
		}
		f.Value = strings.Join(pairs, ";")
	case name == "set-cookie":
		pair, attributes, ok := strings.Cut(f.Value, ";")
		if f.Value = hideValue(pair); ok {
			f.Value += ";" + attributes
		}
	case name == "location" || name == "referer" || name == "content-location" || name == "link" || name == "refresh":
		f.Value = RedactTarget(f.Value)
	case strings.HasSuffix(name, "signature") || strings.HasPrefix(name, "sec-"):
		// of a webhook: whoever debugs it needs it, and it opens nothing
	case isSecret(name):
		f.Value = Hidden
	}
	return f
}

// hideValue hides the value of name=value.
func hideValue(pair string) string {
	name, _, ok := strings.Cut(pair, "=")
	if !ok {
		return Hidden
	}
	return name + "=" + Hidden
}

var userinfo = regexp.MustCompile(`//[^/@?#\s]+@`)

// RedactTarget hides credentials in a URL or request target: those of its authority,
// its query and its fragment.
func RedactTarget(target string) string {
	target = userinfo.ReplaceAllString(target, "//"+Hidden+"@")
	at := strings.IndexAny(target, "?#")
	if at < 0 {
		return target
	}
	var out strings.Builder
	out.WriteString(target[:at])
	for rest := target[at:]; rest != ""; {
		end := strings.IndexAny(rest[1:], "&#?;")
		pair := rest
		if end >= 0 {
			pair = rest[:end+1]
		}
		rest = rest[len(pair):]
		out.WriteByte(pair[0])
		out.WriteString(redactPair(pair[1:]))
	}
	return out.String()
}

// redactPair hides the value of a name=value of a query or form whose name says so.
func redactPair(pair string) string {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || value == "" {
		return pair
	}
	plain, err := url.QueryUnescape(name)
	if err != nil {
		plain = name
	}
	if !isSecret(plain) {
		return pair
	}
	return name + "=" + Hidden
}

// redactBody hides credentials in a body that is text, and reports whether it did.
func redactBody(text []byte, contentType string) ([]byte, bool) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(contentType), ";")
	}
	var out []byte
	switch {
	case media == "application/x-www-form-urlencoded":
		pairs := strings.Split(string(text), "&")
		for i, p := range pairs {
			pairs[i] = redactPair(p)
		}
		out = []byte(strings.Join(pairs, "&"))
	case strings.HasPrefix(media, "multipart/"):
		out = redactParts(text, params["boundary"])
	default:
		out = redactXML(redactJSON(text))
	}
	return out, !bytes.Equal(out, text)
}

// jsonMember is a member of an object with a simple value, or the beginning of one
// that was cut off.
var jsonMember = regexp.MustCompile(`"((?:[^"\\]|\\.){1,128})"(\s*:\s*)("(?:[^"\\]|\\.)*(?:"|$)|-?[0-9][0-9.eE+-]*|\[[^\]]*(?:\]|$))`)

func redactJSON(text []byte) []byte {
	return replaceMatches(text, jsonMember, func(m [][]byte) []byte {
		name := string(m[1])
		if strings.Contains(name, `\`) {
			_ = json.Unmarshal([]byte(`"`+name+`"`), &name)
		}
		if !isSecret(name) {
			return nil
		}
		return append(m[0][:len(m[0])-len(m[3]):len(m[0])-len(m[3])], `"`+Hidden+`"`...)
	})
}

// xmlElement is an element of text alone.
var xmlElement = regexp.MustCompile(`<((?:[\w-]+:)?[\w.-]{1,128})((?:\s[^<>]*)?>)([^<>]+)(</|$)`)

func redactXML(text []byte) []byte {
	return replaceMatches(text, xmlElement, func(m [][]byte) []byte {
		name := string(m[1])
		if _, local, ok := strings.Cut(name, ":"); ok {
			name = local
		}
		if !isSecret(name) || len(bytes.TrimSpace(m[3])) == 0 {
			return nil
		}
		return []byte("<" + string(m[1]) + string(m[2]) + Hidden + string(m[4]))
	})
}

// replaceMatches replaces what matches by what f returns, unless that is nil.
func replaceMatches(text []byte, re *regexp.Regexp, f func(groups [][]byte) []byte) []byte {
	var out []byte
	last := 0
	for _, at := range re.FindAllSubmatchIndex(text, -1) {
		groups := make([][]byte, len(at)/2)
		for i := range groups {
			if at[2*i] >= 0 {
				groups[i] = text[at[2*i]:at[2*i+1]]
			}
		}
		if with := f(groups); with != nil {
			out = append(append(out, text[last:at[0]]...), with...)
			last = at[1]
		}
	}
	if last == 0 {
		return text
	}
	return append(out, text[last:]...)
}

var partName = regexp.MustCompile(`(?i)content-disposition:[^\r\n]*[;\s]name="?([^"\r\n;]*)`)

// redactParts hides the parts of a form whose names say so.
func redactParts(text []byte, boundary string) []byte {
	if boundary == "" {
		return text
	}
	delimiter := []byte("--" + boundary)
	parts := bytes.Split(text, delimiter)
	for i, p := range parts {
		head, _, ok := bytes.Cut(p, blankLine)
		m := partName.FindSubmatch(head)
		if ok && m != nil && isSecret(string(m[1])) {
			parts[i] = bytes.Join([][]byte{head, blankLine, []byte(Hidden + "\r\n")}, nil)
		}
	}
	return bytes.Join(parts, delimiter)
}
