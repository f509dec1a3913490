// Package http2 serves visitors' connections of HTTP/2 (RFC 9113): the state of
// connections and streams, flow control both ways, what leaves together in one write,
// and the limits that end who floods. Framing and HPACK are golang.org/x/net/http2's,
// what a request may hold is http1's. Package edge serves the streams.
//
// A connection has one goroutine that reads, one that writes while there is something to
// write, and one for each stream. What streams say is gathered in one buffer: while it is
// on its way, the next one fills. Nothing but these two buffers and what came of bodies
// within the windows is held.
package http2

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-tunnel/culvert/internal/crew"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// Config of a connection. Handle must be set.
type Config struct {
	// Handle serves a stream, in a goroutine of its own. What it has not ended by then is
	// reset.
	Handle func(*Stream)

	HeaderTimeout time.Duration // for the preface, and for the head of a request; default 10 s
	IdleTimeout   time.Duration // without a stream; default 2 min
	BodyTimeout   time.Duration // without a byte of a body that is waited for; default 2 min
	WriteTimeout  time.Duration // for a piece of what is sent to be taken; default 2 min
	// MaxHeadBytes is for names and values of a head, each field counted with 32 bytes more
	// (RFC 9113, section 6.5.2). Default 64 KiB.
	MaxHeadBytes int
	MaxStreams   int // at a time; default 250
}

const (
	frameSize    = 16 << 10 // the least that may be asked for: a frame is held whole
	streamWindow = 1 << 20  // for a body, of which nothing is read yet
	connWindow   = 1 << 20  // for all bodies of the connection
	firstWindow  = 1<<16 - 1
	maxWindow    = 1<<31 - 1
	// maxOut is from where on streams wait with what they have to send.
	maxOut = 64 << 10
	// maxUnread is what may be queued behind it that no stream waits with: answers to a
	// visitor who asks without reading.
	maxUnread = 64 << 10
	// silence is how long a visitor with a stream may say nothing before he is asked for
	// life, and answer how long he may take to show it.
	silence = time.Minute
	answer  = 15 * time.Second
	// lastStreams is between the two announcements of an orderly end (RFC 9113, section 6.8).
	lastStreams = time.Second
	// lastBytes is how long a request may go on that has been answered.
	lastBytes = 100 * time.Millisecond
	// lastWords is how long a connection that is given up is read on, or its end may
	// overtake why; that of who floods is left alone for lastCalm.
	lastWords = time.Second
	lastCalm  = time.Second / 2
)

// Conn is a visitor's connection. Its Run must be called once.
type Conn struct {
	cfg Config
	net net.Conn
	ctx context.Context //nolint:containedctx // its life; streams' derive from it
	end context.CancelFunc

	// The reading goroutine's own.
	in     *bufio.Reader
	framer *http2.Framer
	heads  *hpack.Decoder
	block  block

	reads    atomic.Uint32  // how often something came
	crew     crew.Crew      // handles streams and writes
	handlers sync.WaitGroup // what the crew does

	mu struct {
		sync.Mutex

		out     []byte // frames to be written
		spare   []byte // for out, while out is written
		control int    // bytes of out that no stream waits with
		writing bool   // a goroutine writes
		writes  uint32 // how often it began to
		frames  *http2.Framer
		fields  *hpack.Encoder
		encoded bytes.Buffer

		streams map[uint32]*Stream
		ready   []*Stream // have something to send, and room for it in their window
		last    uint32    // the highest stream there was
		running int       // handlers, those of streams that are gone among them
		resets  [32]uint32
		reset   int // the next place in resets

		window    int64 // for what is sent
		initial   int64 // of streams
		maxFrame  int
		received  int64 // of bodies, and neither read nor dropped
		unclaimed int64 // read or dropped, and the visitor has not been told
		settled   bool  // he has acknowledged our settings

		credit  credit
		phase   phase
		phases  uint32 // how often phase changed
		leaving bool   // no new streams
		ended   bool   // nothing is sent any more, or taken
		err     error  // why
	}

	seen seen // Look's own
}

// phase is what a connection is at, as far as it may not be so for ever.
type phase uint8

const (
	beginning phase = iota // no preface yet
	idle                   // no stream
	heading                // in a head
	busy
)

// New makes a connection; it is Run that serves it.
func New(c net.Conn, cfg Config) *Conn {
	fill(&cfg.HeaderTimeout, 10*time.Second)
	fill(&cfg.IdleTimeout, 2*time.Minute)
	fill(&cfg.BodyTimeout, 2*time.Minute)
	fill(&cfg.WriteTimeout, 2*time.Minute)
	fill(&cfg.MaxHeadBytes, 64<<10)
	fill(&cfg.MaxStreams, 250)
	conn := &Conn{cfg: cfg, net: c}
	conn.mu.frames = http2.NewFramer((*appender)(&conn.mu.out), nil)
	conn.mu.fields = hpack.NewEncoder(&conn.mu.encoded)
	conn.mu.streams = make(map[uint32]*Stream)
	conn.mu.window, conn.mu.initial, conn.mu.maxFrame = firstWindow, firstWindow, frameSize
	conn.mu.credit.reset()
	return conn
}

func fill[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// appender is a buffer that frames are written to.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// Run serves the connection until it ends, closes it, and returns when all that served
// it has ended. The end of ctx cuts it off.
func (c *Conn) Run(ctx context.Context) error {
	c.ctx, c.end = context.WithCancel(ctx)
	defer c.end()
	stop := context.AfterFunc(ctx, func() { c.abort(ctx.Err()) })
	defer stop()
	c.in = bufio.NewReaderSize(source{c}, 8<<10)
	c.framer = http2.NewFramer(nil, c.in)
	c.framer.SetMaxReadFrameSize(frameSize)
	c.framer.SetReuseFrames()
	c.heads = hpack.NewDecoder(4096, c.field)
	c.heads.SetMaxStringLength(2 * c.cfg.MaxHeadBytes)
	c.greet()
	var err error = fault{http2.ErrCodeInadequateSecurity, "a cipher suite that HTTP/2 does not allow"}
	if !weak(c.net) {
		err = c.readPreface()
	}
	for err == nil {
		err = c.readFrame()
	}
	err = c.cause(err)
	c.giveUp(err)
	c.handlers.Wait()
	return err
}

// source reads from the visitor, and lets what is to be said to him leave before it waits.
type source struct{ c *Conn }

func (s source) Read(p []byte) (int, error) {
	s.c.flush()
	n, err := s.c.net.Read(p)
	s.c.reads.Add(1)
	return n, err
}

func (c *Conn) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.mu.frames.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.cfg.MaxStreams)}, //nolint:gosec // small
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.cfg.MaxHeadBytes)}, //nolint:gosec // small
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
	)
	_ = c.mu.frames.WriteWindowUpdate(0, connWindow-firstWindow)
}

// weak reports whether a TLS connection uses a cipher suite that HTTP/2 must not (RFC 9113,
// section 9.2.2), of those that crypto/tls offers.
func weak(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	if !ok {
		return false
	}
	s := t.ConnectionState()
	if s.Version >= tls.VersionTLS13 {
		return false
	}
	switch s.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return false
	}
	return true
}

var errNoPreface = fault{http2.ErrCodeProtocol, "no preface"}

func (c *Conn) readPreface() error {
	var b [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return err
	}
	if string(b[:]) != http2.ClientPreface {
		return errNoPreface
	}
	f, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	s, ok := f.(*http2.SettingsFrame)
	if !ok || s.IsAck() {
		return errNoPreface
	}
	c.mu.Lock()
	c.setPhaseLocked(idle)
	c.mu.Unlock()
	return c.takeSettings(s)
}

// fault ends a connection, whose visitor is told why.
type fault struct {
	code   http2.ErrCode
	reason string
}

func (f fault) Error() string { return f.reason }

// cause is err, or why reading was made to end with it.
func (c *Conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return c.mu.err
	}
	return err
}

// giveUp ends the connection because of err, with a word if it was the visitor's fault.
func (c *Conn) giveUp(err error) {
	var code http2.ErrCode
	ours, isFault := errors.AsType[fault](err)
	theirs, isFraming := errors.AsType[http2.ConnectionError](err)
	switch {
	case isFault:
		code = ours.code
	case isFraming:
		code = http2.ErrCode(theirs)
	case errors.Is(err, http2.ErrFrameTooLarge):
		code = http2.ErrCodeFrameSize
	case errors.Is(err, errDone):
	default:
		c.abort(err)
		return
	}
	c.mu.Lock()
	if !c.mu.ended && !errors.Is(err, errDone) {
		_ = c.mu.frames.WriteGoAway(c.mu.last, code, []byte(err.Error()))
	}
	c.closeLocked(err)
	c.kickLocked()
	c.mu.Unlock()
	_ = c.net.SetDeadline(time.Now().Add(lastWords))
	if code == http2.ErrCodeEnhanceYourCalm {
		<-time.After(lastCalm)
	} else {
		_, _ = io.Copy(io.Discard, c.net)
	}
	_ = c.net.Close()
}

// abort ends the connection at once.
func (c *Conn) abort(err error) {
	c.mu.Lock()
	c.closeLocked(err)
	c.mu.out = nil
	c.mu.Unlock()
	if errors.Is(err, io.EOF) {
		_ = c.net.Close()
		return
	}
	splice.Reset(c.net)
}

// closeLocked ends all streams. What waits to be written still is.
func (c *Conn) closeLocked(err error) {
	if c.mu.ended {
		return
	}
	c.mu.ended, c.mu.leaving, c.mu.err = true, true, err
	for _, s := range c.mu.streams {
		s.failLocked(ErrGone)
	}
	c.mu.ready = nil
	c.crew.End()
	if c.end != nil {
		c.end()
	}
}

var errDone = errors.New("all is served")

// Shutdown lets the streams that are there come to their ends, and the connection with
// the last one.
func (c *Conn) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.leaving {
		return
	}
	// A stream may be on its way: the number that counts follows (RFC 9113, section 6.8).
	c.mu.leaving = true
	_ = c.mu.frames.WriteGoAway(maxWindow, http2.ErrCodeNo, nil)
	c.kickLocked()
}
