package endpoint

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"strings"
)

// IsOwned reports whether a header says where a request came from, or from whom: Forwarded,
// X-Real-IP, Client-Cert and its chain (RFC 9440), and all that begins with X-Client-Cert or
// with X-Forwarded, whatever frameworks read there (Port, Prefix, Ssl …). Such are the edge's
// alone, or the agent's where a visitor's TLS ends there; a visitor's are dropped, in every
// spelling an upstream might take for the same (CGI and its heirs make one character of all
// that is no letter).
func IsOwned(name []byte) bool {
	if len(name) < len("forwarded") {
		return false
	}
	switch name[0] | 0x20 {
	case 'x', 'f', 'c':
	default:
		return false
	}
	var room [len("client-cert-chain") + 1]byte // one more, of names that are longer
	n := min(len(name), len(room))
	for i := range n {
		room[i] = plainByte(name[i])
	}
	plain := room[:n]
	switch string(plain) {
	case "forwarded", "x-real-ip", "client-cert", "client-cert-chain":
		return true
	}
	return begins(plain, "x-forwarded") || begins(plain, "x-client-cert")
}

// begins reports whether a name is of a family: its own, or one that goes on from it.
func begins(plain []byte, family string) bool {
	n := len(family)
	return len(plain) >= n && string(plain[:n]) == family && (len(plain) == n || plain[n] == '-')
}

// plainByte is a character of a name as a variable of CGI would have it, but for its case.
func plainByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// Header is one of a request.
type Header struct{ Name, Value string }

// CertificateHeaders tell an upstream of a visitor's certificate, which was verified: the
// whole of it (RFC 9440), its subject (RFC 4514), its serial number and its SHA-256, both in
// hexadecimal.
func CertificateHeaders(c *x509.Certificate) [4]Header {
	sum := sha256.Sum256(c.Raw)
	return [4]Header{
		{"Client-Cert", ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":"},
		{"X-Client-Cert-Subject", subject(c)},
		{"X-Client-Cert-Serial", c.SerialNumber.Text(16)},
		{"X-Client-Cert-Fingerprint", fmt.Sprintf("%x", sum)},
	}
}

// subject is that of a certificate, in its order. What is no printable ASCII is escaped, as
// RFC 4514, section 2.4 lets any byte be: a CA may have certified a line break.
func subject(c *x509.Certificate) string {
	var names pkix.RDNSequence
	if _, err := asn1.Unmarshal(c.RawSubject, &names); err != nil {
		return "" // ParseCertificate has read it
	}
	var b strings.Builder
	for _, char := range []byte(names.String()) {
		const digits = "0123456789ABCDEF"
		if char < ' ' || char > '~' {
			_, _ = b.Write([]byte{'\\', digits[char>>4], digits[char&15]})
			continue
		}
		_ = b.WriteByte(char)
	}
	return b.String()
}
