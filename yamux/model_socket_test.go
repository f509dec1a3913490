package yamux

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/pprof"
	"testing"
	"time"
)

// readFromSocket sends n bytes that come from a socket, by ReadFrom.
func (p player) readFromSocket(n int) (int64, error) {
	near, far := narrowPair(p.model.t)
	at := p.dirs[p.side].sent
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.CopyBuffer(struct{ io.Writer }{far}, &patternReader{id: p.id, dir: p.side, at: at, left: n}, make([]byte, 9000))
		far.Close()
	}()
	sent, err := io.Copy(p.st, near)
	near.Close()
	<-written
	return sent, err
}

// writeToSocket is writesTo with a socket.
func (p player) writeToSocket(way writingTo) error {
	near, far := narrowPair(p.model.t)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 20_000)
		for {
			n, err := far.Read(buf)
			p.got(1-p.side, buf[:n])
			if err != nil {
				return
			}
		}
	}()
	_, err := way(p.st, near)
	near.Close()
	<-read
	far.Close()
	if err == nil {
		err = io.EOF
	}
	return err
}

// TestModelOverSockets runs the model over real sockets with small buffers, so that
// most writes are taken in part, and joins streams to such sockets too.
func TestModelOverSockets(t *testing.T) {
	seeds(t, 10, func(t *testing.T, seed uint64) {
		stuck := time.AfterFunc(2*time.Minute, func() { panicStuck(seed) })
		defer stuck.Stop()
		t.Run("seed", func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			m := &model{t: t, seed: seed, sockets: true, unit: 50 * time.Microsecond, streams: make(map[uint32]*modelStream)}
			pair := []func(testing.TB) (a, b net.Conn){narrowPair, tcpPair, bufferedPair}[r.IntN(3)]
			a, b := pair(t)
			sides, ended := startSides(t, a, b, r)
			m.session(r, sides, ended)
		})
	})
}

// panicStuck shows where a model that does not end waits.
func panicStuck(seed uint64) {
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	panic(fmt.Sprintf("the model is stuck with seed %d", seed))
}
