package session

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/splice"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// stream is a data stream as the edge uses it: the agent's StreamReply is read
// ahead of the first byte, and a reply that says no is what Read returns. Reading
// is for one goroutine at a time, as with most connections.
type stream struct {
	link.Stream
	link    *link.Link
	peer    bool   // the link's other side is a node
	done    func() // to be called once
	ended   atomic.Bool
	replied bool
	refused error
	alpn    string // of the reply
	beside  bool   // likewise: the agent takes and sends datagrams
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.leave()
	return s.Stream.Close()
}

// Reset ends both directions at once.
func (s *stream) Reset() error {
	s.leave()
	return s.Stream.Reset()
}

func (s *stream) leave() {
	if !s.ended.Swap(true) {
		s.done()
	}
}

func (s *stream) Read(p []byte) (int, error) {
	if err := s.reply(); err != nil {
		return 0, err
	}
	n, err := s.Stream.Read(p)
	return n, s.explain(err)
}

// ALPN implements registry.Negotiated.
func (s *stream) ALPN() (string, error) {
	err := s.reply()
	return s.alpn, err
}

// Datagrams returns what carries datagrams beside the stream, if both sides can do that. It
// waits for the agent's word.
func (s *stream) Datagrams() (link.Datagrams, bool) {
	beside, can := s.Stream.(link.Datagrams)
	if !can || s.reply() != nil {
		return nil, false
	}
	return beside, s.beside
}

// Pass implements registry.Passable.
func (s *stream) Pass() { s.replied = true }

// WriteTo keeps the link's way of moving buffers without a copy.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	if err := s.reply(); err != nil {
		return 0, err
	}
	n, err := s.Stream.WriteTo(w)
	return n, s.explain(err)
}

// WriteToThen is WriteTo whose outcome is handed to then, perhaps after it has returned. It
// waits for the reply, and takes no goroutine while nothing comes behind it if the link's
// stream takes none.
func (s *stream) WriteToThen(w io.Writer, then func(n int64, err error)) {
	if err := s.reply(); err != nil {
		then(0, err)
		return
	}
	if st, ok := s.Stream.(splice.Mover); ok {
		st.WriteToThen(w, func(n int64, err error) { then(n, s.explain(err)) })
		return
	}
	n, err := s.Stream.WriteTo(w)
	then(n, s.explain(err))
}

// WriteToN is WriteTo for the next n bytes.
func (s *stream) WriteToN(w io.Writer, n int64) (int64, error) {
	if err := s.reply(); err != nil {
		return 0, err
	}
	n, err := s.Stream.WriteToN(w, n)
	return n, s.explain(err)
}

// Quiet reports whether nothing has come that was not read, and more may. The reply must
// have been read.
func (s *stream) Quiet() bool {
	q, ok := s.Stream.(interface{ Quiet() bool })
	return s.replied && (!ok || q.Quiet())
}

// explain says of an error that it was the link that ended. A link ends before its
// streams do.
func (s *stream) explain(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // the orderly end (io.Reader)
		return err
	}
	select {
	case <-s.link.Done():
		return fmt.Errorf("%w: %w", registry.ErrSessionGone, err)
	default:
		return err
	}
}

func (s *stream) reply() error {
	if s.replied {
		return s.refused
	}
	s.replied = true
	var m tunnel.StreamReply
	if err := tunnel.Read(s.Stream, &m, tunnel.MaxHeader); err != nil {
		if err == io.EOF { //nolint:errorlint // tunnel.Read documents it bare
			err = io.ErrUnexpectedEOF
		}
		s.refused = s.explain(err)
	} else if s.peer && m.GetCode() == string(registry.CodeMoved) {
		s.refused = fmt.Errorf("open stream at the agent's server: %w: %w", registry.ErrSessionGone, registry.ErrMoved)
	} else if s.alpn, s.beside = m.GetAlpn(), m.GetDatagrams(); m.GetCode() != "" {
		s.refused = &tunnel.StreamError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage()}
	}
	return s.refused
}
