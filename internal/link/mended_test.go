package link

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// ending is a stream of a link that ends while it is used.
type ending struct {
	Stream
	reads []error
	reset time.Time
}

func (e *ending) Read(p []byte) (int, error) {
	err := e.reads[0]
	e.reads = e.reads[1:]
	if err == io.EOF { //nolint:errorlint // what go-yamux returns
		return 1, err
	}
	return 0, err
}

func (e *ending) Write(p []byte) (int, error) { return 0, io.EOF }
func (e *ending) Reset() error                { e.reset = time.Now(); return nil }

func TestMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("link ended")
		below := &ending{reads: []error{io.EOF, broken}}
		s := &mended{Stream: below, hold: holdReset}
		if b, err := io.ReadAll(s); len(b) != 1 || !errors.Is(err, broken) {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := s.Write(nil); errors.Is(err, io.EOF) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		wrote := time.Now()
		_ = s.Reset()
		if held := below.reset.Sub(wrote); held != holdReset {
			t.Errorf("the reset was held for %v", held)
		}
		before := time.Now()
		_ = s.Reset()
		if !time.Now().Equal(before) {
			t.Error("a reset long after the last write was held")
		}
	})
}
