package http2

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// block is the head block that is being read.
type block struct {
	id        uint32  // 0: none
	stream    *Stream // that begins; nil: none
	end       bool    // of the stream
	trailer   bool
	unwanted  bool          // it is read for what it does to the compression alone
	refused   http2.ErrCode // or 0; the stream's end whatever the block holds
	encoded   int
	fragments int

	listed    int // RFC 9113, section 6.5.2
	tooLarge  bool
	malformed bool
	regular   bool // a field that is no pseudo-header has come

	method, scheme, authority, path, protocol string
	seen                                      uint8 // pseudo-headers
	host                                      []byte
	hosts                                     int
	fields                                    []http1.Field
	cookie                                    int // the place of Cookie in fields, and one more; 0: none
	crumbs                                    []byte
	arena                                     []byte // what fields point into
}

const (
	sawMethod = 1 << iota
	sawScheme
	sawAuthority
	sawPath
	sawProtocol
)

// maxFragments of a head block; nobody who means well needs more than its size calls for.
const maxFragments = 32

func (c *Conn) takeHeaders(f *http2.HeadersFrame) error {
	id := f.StreamID
	if id%2 == 0 {
		return fault{http2.ErrCodeProtocol, "an even stream"}
	}
	b := block{id: id, end: f.StreamEnded(), crumbs: c.block.crumbs[:0]}
	c.mu.Lock()
	s := c.mu.streams[id]
	switch {
	case s != nil && s.ended:
		b.refused, b.unwanted = http2.ErrCodeStreamClosed, true
	case s != nil:
		b.trailer = true
		b.malformed = !b.end
	case id > c.mu.last:
		c.mu.last = id
		b.stream = &Stream{conn: c, id: id}
		b.fields, b.arena = b.stream.fields[:0], b.stream.arena[:0]
	case c.wasResetLocked(id):
		b.unwanted = true // a trailer section that was on its way
	default:
		c.mu.Unlock()
		return fault{http2.ErrCodeProtocol, "a stream that is over"}
	}
	c.setPhaseLocked(heading)
	c.mu.Unlock()
	if f.HasPriority() && f.Priority.StreamDep == id {
		b.refused = http2.ErrCodeProtocol
	}
	c.block = b
	c.heads.SetEmitEnabled(!b.unwanted)
	return c.takeFragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (c *Conn) takeContinuation(f *http2.ContinuationFrame) error {
	if c.block.fragments++; c.block.fragments > maxFragments {
		return fault{http2.ErrCodeEnhanceYourCalm, "a head in too many pieces"}
	}
	return c.takeFragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (c *Conn) takeFragment(p []byte, end bool) error {
	b := &c.block
	if b.encoded += len(p); b.encoded > 2*c.cfg.MaxHeadBytes {
		return fault{http2.ErrCodeEnhanceYourCalm, "a head far over its size limit"}
	}
	if _, err := c.heads.Write(p); err != nil {
		return compressionFault(err)
	}
	if !end {
		return nil
	}
	if err := c.heads.Close(); err != nil {
		return compressionFault(err)
	}
	err := c.takeHead()
	c.block = block{crumbs: c.block.crumbs}
	c.mu.Lock()
	c.restLocked()
	c.mu.Unlock()
	return err
}

func compressionFault(err error) error {
	if errors.Is(err, hpack.ErrStringLength) {
		return fault{http2.ErrCodeEnhanceYourCalm, "a field far over its size limit"}
	}
	return fault{http2.ErrCodeCompression, "malformed head block"}
}

// field takes a field of the block.
func (c *Conn) field(f hpack.HeaderField) {
	b := &c.block
	if b.listed += int(f.Size()); b.listed > c.cfg.MaxHeadBytes || len(b.fields) == http1.MaxFields {
		b.tooLarge = true
		c.heads.SetEmitEnabled(false)
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.pseudo(f)
		return
	}
	b.regular = true
	kind := http1.KindOf([]byte(f.Name))
	switch kind {
	case http1.Connection, http1.TransferEncoding, http1.Upgrade:
		b.malformed = true // RFC 9113, section 8.2.2
	case http1.HopByHop:
		b.malformed = b.malformed || f.Name == "keep-alive" || f.Name == "proxy-connection"
	case http1.TE:
		b.malformed = b.malformed || !strings.EqualFold(f.Value, "trailers")
	case http1.Host:
		b.hosts++
	default:
	}
	name, ok := b.name(f.Name)
	if !ok {
		b.malformed = true
		return
	}
	if f.Name == "cookie" && !b.trailer {
		// Its parts may come apart, and are one field again (RFC 9113, section 8.2.3).
		if b.cookie > 0 {
			b.crumbs = append(append(b.crumbs, "; "...), f.Value...)
			return
		}
		b.crumbs = append(b.crumbs, f.Value...)
		b.cookie = len(b.fields) + 1
	}
	value := b.keep(f.Value)
	if kind == http1.Host {
		b.host = value
	}
	b.fields = append(b.fields, http1.Field{Name: name, Value: value, Kind: kind})
}

// pseudo takes a pseudo-header (RFC 9113, section 8.3.1).
func (b *block) pseudo(f hpack.HeaderField) {
	var to *string
	var bit uint8
	switch f.Name {
	case ":method":
		to, bit = &b.method, sawMethod
	case ":scheme":
		to, bit = &b.scheme, sawScheme
	case ":authority":
		to, bit = &b.authority, sawAuthority
	case ":path":
		to, bit = &b.path, sawPath
	case ":protocol":
		to, bit = &b.protocol, sawProtocol
	}
	if to == nil || b.seen&bit != 0 || b.regular || b.trailer {
		b.malformed = true
		return
	}
	b.seen |= bit
	*to = f.Value
}

// name keeps a name as HTTP/1.1 is used to see it, with capitals.
func (b *block) name(s string) ([]byte, bool) {
	kept := b.keep(s)
	first := true
	for i, c := range kept {
		switch {
		case 'A' <= c && c <= 'Z':
			return nil, false // RFC 9113, section 8.2.1
		case first && 'a' <= c && c <= 'z':
			kept[i] = c - ('a' - 'A')
		}
		first = c == '-'
	}
	return kept, len(s) > 0
}

// keep copies s to where it stays as long as the request.
func (b *block) keep(s string) []byte {
	if cap(b.arena)-len(b.arena) < len(s) {
		b.arena = make([]byte, 0, max(1<<10, len(s)))
	}
	at := len(b.arena)
	b.arena = append(b.arena, s...)
	return b.arena[at:len(b.arena):len(b.arena)]
}

// takeHead takes a whole head.
func (c *Conn) takeHead() error {
	b := &c.block
	if !b.trailer && !b.unwanted {
		b.malformed = b.malformed || !b.complete()
	}
	if b.malformed && b.refused == 0 {
		b.refused = http2.ErrCodeProtocol
	}
	switch {
	case b.refused != 0:
		return c.refuse(b.id, b.refused)
	case b.unwanted:
		return c.spend(1)
	case b.trailer:
		return c.takeTrailer()
	}
	s := b.stream
	s.Scheme, s.Protocol, s.ended, s.allowed = b.scheme, b.protocol, b.end, streamWindow
	if b.tooLarge {
		s.Fault = http1.ErrHeadTooLarge
	} else {
		if b.cookie > 0 {
			b.fields[b.cookie-1].Value = b.keep(string(b.crumbs))
		}
		host := b.host
		if b.seen&sawAuthority != 0 {
			host = b.keep(b.authority)
		}
		s.Fault = s.Request.Assemble(b.keep(b.method), b.keep(b.path), host, b.fields, !b.end)
	}
	s.left = s.Request.Length
	if s.Fault == nil && s.Request.HasLength() && b.end && s.left != 0 {
		return c.refuse(b.id, http2.ErrCodeProtocol)
	}
	return c.start(s)
}

// complete reports whether the pseudo-headers are those that a request has.
func (b *block) complete() bool {
	if b.tooLarge {
		return true // they may be among what was not looked at
	}
	if b.hosts > 1 || (b.hosts == 1 && b.seen&sawAuthority != 0 && !strings.EqualFold(string(b.host), b.authority)) {
		return false // RFC 9113, section 8.3.1
	}
	switch {
	case b.method == "CONNECT" && b.seen&sawProtocol == 0:
		return b.seen&(sawScheme|sawPath) == 0 // RFC 9113, section 8.5
	case b.method != "CONNECT" && b.seen&sawProtocol != 0:
		return false
	}
	const all = sawMethod | sawScheme | sawPath
	return b.seen&all == all && b.path != "" && b.method != "" && (b.scheme == "https" || b.scheme == "http")
}

func (c *Conn) takeTrailer() error {
	b := &c.block
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.streams[b.id]
	if s == nil {
		return nil
	}
	if (s.Request.HasLength() && s.left != 0) || b.tooLarge || http1.CheckFields(b.fields) != nil {
		return c.refuseLocked(b.id, http2.ErrCodeProtocol)
	}
	s.ended, s.trailer = true, b.fields
	s.reading.wakeLocked()
	if s.over {
		c.forgetLocked(s)
	}
	return nil
}

// start begins to serve a stream.
func (c *Conn) start(s *Stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Those that were reset are still to be given up.
	if c.mu.leaving && c.seen.announced || len(c.mu.streams) >= c.cfg.MaxStreams || c.mu.running >= 2*c.cfg.MaxStreams {
		return c.refuseLocked(s.id, http2.ErrCodeRefusedStream)
	}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.window = c.mu.initial
	c.mu.streams[s.id] = s
	c.mu.running++
	c.handlers.Add(1)
	c.crew.Go(s.serve)
	return nil
}

// forgetLocked ends the connection's part in a stream.
func (c *Conn) forgetLocked(s *Stream) {
	if c.mu.streams[s.id] == s {
		delete(c.mu.streams, s.id)
		if c.mu.phase != heading {
			c.restLocked()
		}
	}
}
