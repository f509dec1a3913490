package edge

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// visitorError is what a visitor is told.
type visitorError struct {
	status     int
	title      string // what happened
	advice     string // what to do
	retryAfter int    // seconds; 0: not said
}

// visitorErrors is the table of all errors the edge answers with.
var visitorErrors = map[tunnel.Code]visitorError{
	tunnel.CodeBadRequest:          {http.StatusBadRequest, "This request could not be understood", "Its host name, or something else about it, is missing or malformed.", 0},
	tunnel.CodeRequestTimeout:      {http.StatusRequestTimeout, "This request took too long", "Its head or its body stopped coming.", 0},
	tunnel.CodeHeadTooLarge:        {http.StatusRequestHeaderFieldsTooLarge, "The head of this request is too large", "Clearing the cookies of this site may help.", 0},
	tunnel.CodeCodingRefused:       {http.StatusNotImplemented, "This transfer coding is not understood", "Chunked is the only one.", 0},
	tunnel.CodeVersionRefused:      {http.StatusHTTPVersionNotSupported, "This version of HTTP is not spoken here", "Use HTTP/1.1 or HTTP/2.", 0},
	tunnel.CodePolicyDenied:        {http.StatusForbidden, "Access denied", "The owner of this address does not allow this request.", 0},
	tunnel.CodeCertificateRequired: {http.StatusForbidden, "This address asks for a client certificate", "The connection came without one that it trusts.", 0},
	tunnel.CodeEndpointNotFound:    {http.StatusNotFound, "Nothing is published here", "Check the address, or start the agent that serves it.", 0},
	tunnel.CodeMethodRefused:       {http.StatusMethodNotAllowed, "This method is not passed on", "CONNECT and TRACE end at this server; WebSocket is passed on.", 0},
	tunnel.CodeMisdirected:         {http.StatusMisdirectedRequest, "Wrong connection for this host", "The host asked for is not the one this TLS connection was opened to.", 0},
	tunnel.CodeRateLimited:         {http.StatusTooManyRequests, "Too many requests", "Slow down and try again.", 1},
	tunnel.CodeUpstreamRefused:     {http.StatusBadGateway, "The service behind this address is not running", "The agent is connected, but the service refused the connection.", 0},
	tunnel.CodeUpstreamUnreachable: {http.StatusBadGateway, "The service behind this address can't be reached", "The agent is connected, but finds no way to the service.", 0},
	tunnel.CodeUpstreamTLS:         {http.StatusBadGateway, "The service behind this address can't be trusted", "The agent is connected, but the service's TLS certificate was not accepted.", 0},
	tunnel.CodeUpstreamClosed:      {http.StatusBadGateway, "The service behind this address broke off", "It closed the connection before it had answered.", 0},
	tunnel.CodeUpstreamProtocol:    {http.StatusBadGateway, "The service behind this address gave no valid answer", "What it said can't be passed on.", 0},
	tunnel.CodeEndpointOffline:     {http.StatusServiceUnavailable, "The agent behind this address is offline", "Try again when it is back.", 5},
	tunnel.CodeTooManyConnections:  {http.StatusServiceUnavailable, "Too many visitors at once", "This address is open to fewer visitors at a time. Try again in a moment.", 1},
	tunnel.CodeUpstreamTimeout:     {http.StatusGatewayTimeout, "The service behind this address is too slow", "It did not answer in time.", 0},
}

// Codes are all of that table.
func Codes() []string {
	var list []string
	for c := range visitorErrors {
		list = append(list, string(c))
	}
	return list
}

//go:embed error.html
var errorPage string

var errorTemplate = template.Must(template.New("error").Parse(errorPage))

// errorHeader names the code of an answer that is the edge's own.
const errorHeader = "Culvert-Error"

// writeError answers an exchange with the error for code, in the form that the visitor
// prefers.
func (p *Pages) writeError(w http.ResponseWriter, r *http.Request, code tunnel.Code, id string) {
	e := visitorErrors[code]
	h := w.Header()
	h.Set(errorHeader, string(code))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	switch preferred(r.Header.Values("Accept")) {
	case "text/html":
		h.Set("Content-Type", "text/html; charset=utf-8")
		page := p.of(code)
		if page == errorTemplate {
			h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		}
		w.WriteHeader(e.status)
		_ = page.Execute(w, errorData{e.status, e.title, e.advice, code, r.Host, id})
	case "application/json":
		h.Set("Content-Type", "application/json")
		w.WriteHeader(e.status)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"code": code, "status": e.status, "message": e.title + ". " + e.advice, "request_id": id,
		})
	default:
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(e.status)
		_, _ = w.Write([]byte(e.title + ". " + e.advice + " (" + string(code) + ", request " + id + ")\n"))
	}
}

// preferred picks the form of an error by Accept (RFC 9110, section 12.5.1): the
// listed one with the highest weight, the first among equals. Wildcards mean plain
// text: who sends only those is a program.
func preferred(accept []string) string {
	best, weight := "", 0.0
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			kind, params, err := mime.ParseMediaType(part)
			if err != nil || (kind != "text/html" && kind != "application/json" && kind != "text/plain") {
				continue
			}
			q := 1.0
			if s, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(s, 64); err != nil {
					continue
				}
			}
			if q > weight {
				best, weight = kind, q
			}
		}
	}
	return best
}
