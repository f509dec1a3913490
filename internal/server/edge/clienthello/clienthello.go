// Package clienthello reads the first message of a TLS connection and says whom it
// is for, without being a party to the handshake. Every byte it takes is kept, to
// be replayed to whoever is.
package clienthello

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// MaxSize is the limit on what is read, in bytes, record headers included.
const MaxSize = 64 << 10

// Errors of Read, besides those of the reader.
var (
	ErrNotTLS    = errors.New("not a TLS ClientHello")
	ErrTooLarge  = errors.New("ClientHello over 64 KiB")
	ErrMalformed = errors.New("malformed ClientHello")
)

// Hello is what a ClientHello says about its destination.
type Hello struct {
	// ServerName is the host_name of the server_name extension (RFC 6066, section
	// 3) in canonical form; empty without the extension, and for what is no host
	// name, IP addresses among them, which the RFC does not permit. With Encrypted
	// ClientHello it is the outer name.
	ServerName string
	ALPN       []string // RFC 7301, in the client's order
	Raw        []byte   // all bytes read, record headers included
}

// Offers reports whether protocol is among the client's ALPN protocols.
func (h *Hello) Offers(protocol string) bool {
	return slices.Contains(h.ALPN, protocol)
}

const (
	recordHandshake = 22
	recordHeader    = 5
	maxRecord       = 1 << 14 // RFC 8446, section 5.1
	typeClientHello = 1
	extServerName   = 0
	extALPN         = 16
)

// Read reads the records that hold the ClientHello (RFC 8446, sections 4.1.2 and
// 5.1), split as they may be, and not a byte beyond them. It always returns what it
// has read in Raw, also with an error.
func Read(r io.Reader) (*Hello, error) {
	h := &Hello{Raw: make([]byte, 0, 2048)}
	var message []byte // the handshake message when it spans records
	need := -1         // its length with its 4-byte header, once known
	for {
		body, err := h.readRecord(r)
		if err != nil {
			return h, err
		}
		if message == nil {
			message = slices.Clip(body) // a slice of Raw: appending must copy
		} else {
			message = append(message, body...)
		}
		if need < 0 && len(message) >= 4 {
			if message[0] != typeClientHello {
				return h, ErrNotTLS
			}
			if message[1] != 0 {
				return h, ErrTooLarge // a 24-bit length of 64 KiB or more
			}
			need = 4 + int(binary.BigEndian.Uint16(message[2:4]))
		}
		switch {
		case need < 0 || len(message) < need:
			continue
		case len(message) > need:
			return h, ErrMalformed // nothing may follow before the server answers
		}
		return h, h.parse(message[4:])
	}
}

// readRecord reads one record into Raw and returns its body. Empty records of the
// handshake type are not allowed (RFC 8446, section 5.1), so they can't be used
// to keep a reader busy.
func (h *Hello) readRecord(r io.Reader) ([]byte, error) {
	head, err := h.read(r, recordHeader)
	if err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(head[3:5]))
	// Major version 3 covers SSL 3.0 to TLS 1.3; the minor one is frozen and to be
	// ignored (RFC 8446, section 5.1).
	if head[0] != recordHandshake || head[1] != 3 {
		return nil, ErrNotTLS
	}
	if size == 0 || size > maxRecord {
		return nil, ErrMalformed
	}
	return h.read(r, size)
}

// read appends n bytes to Raw and returns them. It looks at the first byte alone
// first: what is not TLS may be shorter than a record's header.
func (h *Hello) read(r io.Reader, n int) ([]byte, error) {
	at := len(h.Raw)
	if at+n > MaxSize {
		return nil, ErrTooLarge
	}
	if cap(h.Raw) < at+n {
		grown := make([]byte, at, max(2*cap(h.Raw), at+n))
		copy(grown, h.Raw)
		h.Raw = grown
	}
	got, empty := 0, 0
	for got < n {
		m, err := r.Read(h.Raw[at+got : at+n])
		got += m
		if m > 0 {
			empty = 0
		} else if empty++; empty > 100 && err == nil {
			err = io.ErrNoProgress // a reader that gives neither bytes nor an error
		}
		h.Raw = h.Raw[:at+got]
		if at == 0 && got > 0 && h.Raw[0] != recordHandshake {
			return nil, ErrNotTLS
		}
		if err != nil && got < n {
			if errors.Is(err, io.EOF) && len(h.Raw) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read ClientHello: %w", err)
		}
	}
	return h.Raw[at : at+n], nil
}

// parse reads the body of the message.
func (h *Hello) parse(body []byte) error {
	s := cryptobyte.String(body)
	var session, suites, compression, extensions cryptobyte.String
	if !s.Skip(2+32) || // legacy_version, random
		!s.ReadUint8LengthPrefixed(&session) || len(session) > 32 ||
		!s.ReadUint16LengthPrefixed(&suites) || len(suites) < 2 || len(suites)%2 != 0 ||
		!s.ReadUint8LengthPrefixed(&compression) || len(compression) == 0 {
		return ErrMalformed
	}
	if s.Empty() {
		return nil // no extensions: TLS 1.2 and older
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return ErrMalformed
	}
	return h.parseExtensions(extensions)
}

// maxExtensions bounds the search for doubles. Browsers send about 20.
const maxExtensions = 256

func (h *Hello) parseExtensions(extensions cryptobyte.String) error {
	var seen [maxExtensions]uint16
	for n := 0; !extensions.Empty(); n++ {
		var kind uint16
		var data cryptobyte.String
		if n == maxExtensions || !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return ErrMalformed
		}
		if slices.Contains(seen[:n], kind) {
			return ErrMalformed // RFC 8446, section 4.2
		}
		seen[n] = kind
		ok := true
		switch kind {
		case extServerName:
			ok = h.parseServerName(data)
		case extALPN:
			ok = h.parseALPN(data)
		}
		if !ok {
			return ErrMalformed
		}
	}
	return nil
}

// parseServerName takes the one name of type host_name. Names of other types were
// never defined; two names are what two parsers would read differently.
func (h *Hello) parseServerName(data cryptobyte.String) bool {
	var list, name cryptobyte.String
	var kind uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
		!list.ReadUint8(&kind) || kind != 0 ||
		!list.ReadUint16LengthPrefixed(&name) || len(name) == 0 || !list.Empty() {
		return false
	}
	if name[len(name)-1] == '.' {
		return false // RFC 6066, section 3: "without a trailing dot"; crypto/tls refuses it too
	}
	for _, c := range name {
		if c == ':' || c == '[' || c <= ' ' || c >= 0x7f {
			return true // no host name (no port belongs here): as if none were sent
		}
	}
	host, err := endpoint.ParseHost(string(name))
	if err != nil || isIPv4(host) {
		return true
	}
	h.ServerName = host
	return true
}

// isIPv4 tells an address from a canonical name: ParseHost lets only addresses end
// in a digit-only label.
func isIPv4(host string) bool {
	for i := len(host) - 1; i >= 0 && host[i] != '.'; i-- {
		if host[i] < '0' || host[i] > '9' {
			return false
		}
	}
	return true
}

func (h *Hello) parseALPN(data cryptobyte.String) bool {
	var list, protocol cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	n := 0
	for rest := list; !rest.Empty(); n++ {
		if !rest.ReadUint8LengthPrefixed(&protocol) || len(protocol) == 0 {
			return false
		}
	}
	all := string(list) // one allocation for all of them
	h.ALPN = make([]string, 0, n)
	for at := 0; at < len(all); {
		end := at + 1 + int(all[at])
		h.ALPN = append(h.ALPN, all[at+1:end])
		at = end
	}
	return true
}
