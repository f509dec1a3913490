package session

import (
	"fmt"
	"io"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/registry"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// stream is a data stream as the edge uses it: the agent's StreamReply is read
// ahead of the first byte, and a reply that says no is what Read returns. Reading
// is for one goroutine at a time, as with most connections.
type stream struct {
	link.Stream
	link    *link.Link
	replied bool
	refused error
}

func (s *stream) Read(p []byte) (int, error) {
	if err := s.reply(); err != nil {
		return 0, err
	}
	n, err := s.Stream.Read(p)
	return n, s.explain(err)
}

// WriteTo keeps the link's way of moving buffers without a copy.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	if err := s.reply(); err != nil {
		return 0, err
	}
	n, err := s.Stream.WriteTo(w)
	return n, s.explain(err)
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
	} else if m.GetCode() != "" {
		s.refused = &tunnel.StreamError{Code: tunnel.Code(m.GetCode()), Message: m.GetMessage()}
	}
	return s.refused
}
