package yamux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	hashicorp "github.com/hashicorp/yamux"
)

// FuzzHeader: what is parsed is what is put, in both ways of putting it.
func FuzzHeader(f *testing.F) {
	f.Add(header{kind: typeData, flags: flagSYN | flagFIN, stream: 1, length: 7}.appendTo(nil))
	f.Add(bytes.Repeat([]byte{0xff}, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		b = b[:headerSize]
		h := parseHeader(b)
		var again [headerSize]byte
		h.put(again[:])
		if !bytes.Equal(again[:], b) || !bytes.Equal(h.appendTo(nil), b) {
			t.Errorf("% x became % x", b, again)
		}
		// The specification's layout, written out.
		if h.version != b[0] || h.kind != b[1] || h.flags != uint16(b[2])<<8|uint16(b[3]) ||
			h.stream != binary.BigEndian.Uint32(b[4:8]) || h.length != binary.BigEndian.Uint32(b[8:12]) {
			t.Errorf("% x is %+v", b, h)
		}
	})
}

// TestHeaderTakesNoMemory: what every frame goes through allocates nothing.
func TestHeaderTakesNoMemory(t *testing.T) {
	b, again := bytes.Repeat([]byte{0xff}, headerSize), make([]byte, headerSize)
	if n := testing.AllocsPerRun(100, func() { parseHeader(b).put(again) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHeadersAreHashicorps holds our frames against those of another
// implementation: what it sends, we parse, and would put the same way.
func TestHeadersAreHashicorps(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	cfg := hashicorp.DefaultConfig()
	cfg.EnableKeepAlive, cfg.LogOutput = false, io.Discard
	other, err := hashicorp.Client(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		st, err := other.OpenStream()
		if err == nil {
			_, _ = st.Write([]byte("hello"))
			_ = st.Close()
		}
		_, _ = other.Ping()
		_ = other.GoAway()
	}()
	defer other.Close()
	want := []header{
		{kind: typeWindow, flags: flagSYN, stream: 1},
		{kind: typeData, stream: 1, length: 5},
		{kind: typeWindow, flags: flagFIN, stream: 1},
		{kind: typePing, flags: flagSYN},
		{kind: typeGoAway},
	}
	for _, w := range want {
		got := make([]byte, headerSize)
		if _, err := io.ReadFull(a, got); err != nil {
			t.Fatal(err)
		}
		if ours := w.appendTo(nil); !bytes.Equal(got, ours) {
			t.Errorf("hashicorp sends % x, we % x", got, ours)
		}
		switch w.kind {
		case typeData:
			_, err = io.ReadFull(a, make([]byte, w.length))
		case typePing:
			_, err = a.Write(header{kind: typePing, flags: flagACK}.appendTo(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// scriptConn is a connection whose other side said all it will, in pieces, and
// reads all and keeps what it read.
type scriptConn struct {
	mu     sync.Mutex
	script []byte
	cuts   []byte
	said   bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.script) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if len(c.cuts) > 0 {
		n = min(n, int(c.cuts[0])+1)
		c.cuts = c.cuts[1:]
	}
	n = copy(p[:n], c.script)
	c.script = c.script[n:]
	return n, nil
}

func (c *scriptConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(p)
}

func (c *scriptConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.script = nil
	return nil
}

func (c *scriptConn) LocalAddr() net.Addr              { return memAddr{} }
func (c *scriptConn) RemoteAddr() net.Addr             { return memAddr{} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// expand turns a fuzz input into what the other side sends: each frame's payload,
// up to 4 KiB, is made, so that the input need only have headers.
func expand(input []byte) []byte {
	var b []byte
	for len(input) >= headerSize && len(b) < 1<<20 {
		h := parseHeader(input)
		b = append(b, input[:headerSize]...)
		input = input[headerSize:]
		if h.kind == typeData && h.version == 0 {
			b = append(b, make([]byte, min(h.length, 4<<10))...)
		}
	}
	return append(b, input...)
}

// app accepts, reads, answers and ends streams, until the session ends.
func app(ctx context.Context, s *Session) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	opened, err := s.Open(ctx)
	if err == nil {
		tasks.Go(func() {
			_, _ = opened.Write(make([]byte, 1000))
			_, _ = io.Copy(io.Discard, opened)
			_ = opened.Close()
		})
	}
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			return
		}
		tasks.Go(func() {
			switch st.ID() / 2 % 4 {
			case 0:
				_, _ = io.Copy(st, st)
				_ = st.Close()
			case 1:
				_, _ = st.Read(make([]byte, 10))
				_ = st.Reset()
			case 2:
				_, _ = st.Write(make([]byte, 100_000))
				_ = st.CloseWrite()
				_, _ = io.ReadAll(st)
				_ = st.Close()
			case 3:
				_ = st.Close()
			}
		})
	}
}

// FuzzSession: whatever the other side sends, in whatever pieces, the session ends
// with an error of those it may end with, its frames are sound, nothing is left of
// it, and it takes memory in proportion to the input.
func FuzzSession(f *testing.F) {
	add := func(cuts []byte, headers ...header) {
		var b []byte
		for _, h := range headers {
			b = h.appendTo(b)
		}
		f.Add(true, cuts, b)
	}
	for _, h := range hostilities {
		frames := h.first
		if h.send != nil {
			h.send(func(hs ...header) { frames = append(frames, hs...) })
		}
		for i := range 20 {
			if h.flood != nil {
				frames = append(frames, h.flood(i))
			}
		}
		add([]byte{0, 200, 11, 12}, frames...)
	}
	f.Fuzz(func(t *testing.T, server bool, cuts, input []byte) {
		conn := &scriptConn{script: expand(input), cuts: cuts}
		size := len(conn.script)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s := newSession(conn, Config{KeepAliveInterval: -1}, !server)
		done := make(chan struct{})
		go func() { defer close(done); app(context.Background(), s) }()
		err := s.Run(context.Background())
		<-done
		runtime.ReadMemStats(&after)
		var broken *ProtocolError
		var away *GoAwayError
		if !errors.As(err, &broken) && !errors.As(err, &away) && !errors.Is(err, ErrPeerClosed) {
			t.Errorf("ended with %v", err)
		}
		if st := s.Stats(); st.Streams != 0 || st.Waiting != 0 || st.Window != 0 {
			t.Errorf("left: %+v", st)
		}
		sound(t, conn.said.Bytes())
		// Each stream may cost a buffer there and back and what is copied to it.
		streams := size/headerSize + 2
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(1<<20+16*size+streams*512<<10) {
			t.Errorf("%d bytes allocated for an input of %d", n, size)
		}
	})
}

// sound checks frames that a session sent.
func sound(t *testing.T, b []byte) {
	t.Helper()
	for len(b) >= headerSize {
		h := parseHeader(b)
		b = b[headerSize:]
		if h.version != 0 || h.kind > typeGoAway || h.flags > flagSYN|flagACK|flagFIN|flagRST || (h.kind != typePing && h.length > 1<<30) {
			t.Errorf("sent %+v", h)
		}
		if (h.kind <= typeWindow) != (h.stream != 0) {
			t.Errorf("stream 0 is for the session: %+v", h)
		}
		if h.kind == typeData {
			if int(h.length) > maxPayload {
				t.Errorf("sent a frame of %d bytes", h.length)
			}
			b = b[min(len(b), int(h.length)):]
		}
	}
}
