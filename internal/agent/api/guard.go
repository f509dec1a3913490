package api

import (
	"crypto/subtle"
	"net"
	"net/http"
)

// secretHeader carries the run's secret, which a page gets from POST /api/session: the
// answer to that can be read only by pages that come from here.
const secretHeader = "Culvert-Secret"

// policy of the page: its own files and nothing else. What was captured is only ever
// text, or an image made of a blob.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guard keeps other sites' pages out. A page elsewhere whose name was made to resolve
// to this machine (DNS rebinding) has a foreign Host; one that sends requests across
// has a foreign Origin or says so in Sec-Fetch-Site. Answers allow nobody to read them
// across origins.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !isLocal(r.Host) {
			fail(w, http.StatusForbidden, "this API answers to localhost and loopback addresses only")
			return
		}
		if isForeign(r) {
			fail(w, http.StatusForbidden, "this API does not answer to other sites' pages")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocal reports whether a Host means this machine whoever resolves it.
func isLocal(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isForeign reports whether a request comes from another origin's page. Following a
// link to the page itself is no such thing.
func isForeign(r *http.Request) bool {
	if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Method != http.MethodGet || r.URL.Path != "/" || r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// knowsSecret reports whether who asks has the run's secret.
func (s *Server) knowsSecret(r *http.Request) bool {
	return subtle.ConstantTimeCompare([]byte(r.Header.Get(secretHeader)), []byte(s.secret)) == 1
}

// changing lets only those through who have the secret.
func (s *Server) changing(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.knowsSecret(r) {
			fail(w, http.StatusForbidden, "this needs the secret of POST /api/session in the header "+secretHeader)
			return
		}
		next(w, r)
	}
}

// wantsSecrets reports whether credentials are to be shown; ok is false after it has
// refused that.
func (s *Server) wantsSecrets(w http.ResponseWriter, r *http.Request) (secrets, ok bool) {
	if r.URL.Query().Get("secrets") == "" {
		return false, true
	}
	if !s.knowsSecret(r) {
		fail(w, http.StatusForbidden, "credentials are shown only with the secret of POST /api/session in the header "+secretHeader)
		return false, false
	}
	return true, true
}
