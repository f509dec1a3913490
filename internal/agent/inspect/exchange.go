package inspect

import (
	"time"
)

// State of an Exchange.
type State string

// The states.
const (
	Open   State = "open"   // under way
	Done   State = "done"   // wholly answered
	Failed State = "failed" // the connection ended before the answer did
)

// Kind of an Exchange: what its bodies or messages are.
type Kind string

// The kinds.
const (
	KindHTTP      Kind = "http"
	KindWebSocket Kind = "websocket"
	KindEvents    Kind = "events"
	KindGRPC      Kind = "grpc"
)

// Exchange is a request and its answer, as they were on the wire. It is guarded by
// Inspector.mu; a copy may be read without it, because what slices hold is only ever
// appended to.
type Exchange struct {
	ID                uint64
	Endpoint, Visitor string
	ReplayOf          uint64 // the exchange this one repeats; 0: none
	Edited            bool   // the repetition differs
	Protocol          string // HTTP/1.1, HTTP/2.0, …
	Method, Target    string
	Host              string
	Status            int // 0: no answer yet
	State             State
	Kind              Kind
	Gap               bool   // some bytes were not captured
	Unreached         string // why the upstream could not be dialled

	Start, RequestEnd, FirstByte, End time.Time // zero: not yet

	Request, Response Message
	Interim           []int // 1xx before the answer

	Frames        []Frame // WebSocket messages, events or gRPC messages; the newest
	FramesTotal   int
	framesBytes   int64
	FramesDropped int

	footprint int64 // bytes it takes
	dropped   bool  // no longer in the store
	dirty     bool  // subscribers have not been told of what changed
	open      [2]bool
}

// Message is a request or an answer.
type Message struct {
	Head        string // first line and fields with their line ends, as in HTTP/1.1
	Trailer     string // fields
	Body        []byte // as far as it was kept, without chunks' framing, still encoded
	Size        int64  // of the whole body
	Cut         bool   // Body is not all of it
	ContentType string
	Encoding    string // Content-Encoding
}

// Frame is one WebSocket message, event or gRPC message.
type Frame struct {
	At         time.Time
	ToVisitor  bool
	Type       string // text, binary, ping, pong, close; event; message
	Event      string // of an event: its type
	ID         string // of an event
	Data       []byte
	Size       int64 // of the whole
	Cut        bool  // Data is not all of it
	Compressed bool  // it was on the wire
	Opaque     bool  // … and could not be decompressed
}

// overhead is what an exchange and a frame take beside their bytes, roughly.
const (
	exchangeOverhead = 768
	frameOverhead    = 160
)

// maxFrames kept of one exchange; their bytes are bounded by twice Config.Body.
const maxFrames = 2000

// store keeps exchanges in the order of their ids, which have no gaps, so that an id
// is a place in list. Guarded by Inspector.mu.
type store struct {
	list    []*Exchange
	lastID  uint64
	budget  int64
	used    int64
	dropped uint64
	changed []*Exchange // since subscribers were told
	cleared bool        // likewise
}

func (s *store) add(x *Exchange) {
	s.lastID++
	x.ID, x.State, x.Kind = s.lastID, Open, KindHTTP
	s.list = append(s.list, x)
	s.charge(x, exchangeOverhead+int64(len(x.Request.Head)+len(x.Endpoint)+len(x.Visitor)))
	s.touch(x)
}

// charge notes that x takes n bytes more.
func (s *store) charge(x *Exchange, n int64) {
	if !x.dropped {
		x.footprint += n
		s.used += n
	}
}

// touch notes that x has changed.
func (s *store) touch(x *Exchange) {
	if !x.dirty {
		x.dirty = true
		s.changed = append(s.changed, x)
	}
}

// trim drops the oldest exchanges until the rest fits.
func (s *store) trim() {
	n := 0
	for s.used > s.budget && n < len(s.list) {
		s.drop(s.list[n])
		s.dropped++
		n++
	}
	clear(s.list[:n]) // the array lives on for a while
	s.list = s.list[n:]
}

func (s *store) drop(x *Exchange) {
	s.used -= x.footprint
	x.dropped = true
	x.Request.Body, x.Response.Body, x.Frames = nil, nil, nil
}

func (s *store) clear() {
	for _, x := range s.list {
		s.drop(x)
	}
	s.list, s.changed, s.cleared = nil, nil, true
}

// find returns the exchange with an id, nil if it isn't kept.
func (s *store) find(id uint64) *Exchange {
	if len(s.list) == 0 || id < s.list[0].ID || id > s.lastID {
		return nil
	}
	return s.list[id-s.list[0].ID]
}

// ahead bounds the memory that is taken at once for a body by what of it has come.
const ahead = 16

// body appends to the body of one of x's messages, of which so many bytes are said to come,
// p among them; less than 0: nothing is said.
func (in *Inspector) body(x *Exchange, m *Message, p []byte, left int64) {
	m.Size += int64(len(p))
	in.mu.touch(x)
	room := in.cfg.Body - int64(len(m.Body))
	if x.dropped || m.Cut {
		return
	}
	if int64(len(p)) > room {
		p, m.Cut = p[:room], true
	}
	before := cap(m.Body)
	// Where little more is to come, append makes room for it, and does not clear it before.
	if n := min(left, room, ahead*int64(len(p))); before == 0 && n > int64(len(p))*9/8 {
		m.Body = make([]byte, 0, n)
	}
	m.Body = append(m.Body, p...)
	in.mu.charge(x, int64(cap(m.Body)-before))
}

// frame appends a frame to x. The oldest make room for it.
func (in *Inspector) frame(x *Exchange, f Frame) {
	x.FramesTotal++
	in.mu.touch(x)
	if x.dropped {
		return
	}
	x.framesBytes += int64(len(f.Data))
	in.mu.charge(x, int64(len(f.Data))+frameOverhead)
	x.Frames = append(x.Frames, f)
	for len(x.Frames) > maxFrames || (x.framesBytes > 2*in.cfg.Body && len(x.Frames) > 1) {
		old := int64(len(x.Frames[0].Data))
		x.framesBytes -= old
		in.mu.charge(x, -old-frameOverhead)
		x.Frames = x.Frames[1:]
		x.FramesDropped++
	}
}

// began makes an exchange of a request whose head is complete.
func (t *tap) began(x *Exchange) *Exchange {
	x.Endpoint = t.endpoint
	if x.Visitor == "" {
		x.Visitor = t.visitor
	}
	if t.replay != nil {
		x.ReplayOf, x.Edited = t.replay.of, t.replay.edited
		x.Visitor = "replay"
	}
	x.Unreached = t.unreached
	x.open = [2]bool{true, true}
	t.in.mu.add(x)
	if t.replay != nil {
		t.replay.made(x.ID)
	}
	return x
}

// ended notes that one message of x is complete.
func (t *tap) ended(x *Exchange, dir direction, at time.Time) {
	x.open[dir] = false
	t.in.mu.touch(x)
	if dir == toUpstream {
		x.RequestEnd = at
		return
	}
	x.State, x.End = Done, at
	if t.in.cfg.Observe != nil {
		t.in.cfg.Observe(x)
	}
}

// failed notes that x will not be completed.
func (t *tap) failed(x *Exchange, at time.Time) {
	if x.State == Open {
		x.State, x.End = Failed, at
		t.in.mu.touch(x)
	}
}
