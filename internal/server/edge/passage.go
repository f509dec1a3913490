package edge

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// passage is what belongs to one request on its way.
type passage struct {
	x       *exchange
	visitor endpoint.Visitor
	request *http.Request // the server's own
	writer  http.ResponseWriter
	other   http.HandlerFunc // serves what HTTP/2 can't
	body    *requestBody     // nil: none
	conn    atomic.Pointer[upstreamConn]
	over    chan struct{} // closed when the request has been served
	expects bool          // a 100 before the body is sent

	bodiless atomic.Bool // the answer

	mu struct {
		sync.Mutex
		answered   bool  // or over: nothing is to be done to the request any more
		reading    bool  // the body
		broken     error // why the stream ended before an answer
		responding bool  // the first byte of an answer is here, and it was no 1xx as far as is known
		continued  bool  // by a 100 of the upstream
	}
}

// responds notes what has come of an answer: 0 stands for its first byte.
func (p *passage) responds(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.responding = code == 0
	p.mu.continued = p.mu.continued || code == http.StatusContinue
}

// settled says that the upstream has answered, or that the request is over.
func (p *passage) settled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.answered = true
}

// wantsBody reports whether a body that was not asked for yet may still be: after the
// upstream's 100, or as long as there is no answer. Transport would also send it after a
// final answer, to keep the connection.
func (p *passage) wantsBody() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.continued || (!p.mu.responding && !p.mu.answered && p.mu.broken == nil)
}

// beginBody returns nil if the body may be read now, which tells a visitor to go on (100).
// A body that is not wanted keeps its caller, Transport's writer, as long as Transport
// reads the answer: an error would end that too.
func (p *passage) beginBody() error {
	c := p.conn.Load()
	if p.expects && !p.wantsBody() {
		var closed <-chan struct{}
		if c != nil {
			closed = c.closed
		}
		select {
		case <-closed:
		case <-p.over:
		}
		return errNotWanted
	}
	p.mu.Lock()
	p.mu.reading = true
	p.mu.Unlock()
	if c != nil {
		select {
		case <-c.ended:
			p.streamEnded(c.err)
			return errNotWanted
		default:
		}
	}
	return nil
}

// streamEnded gives up reading a body whose upstream can't take it any more. Transport
// would wait for the visitor's next bytes before it said so, and he may wait for us. A body
// that nobody has begun to read is left alone: it may still go on another stream.
func (p *passage) streamEnded(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.answered || p.mu.broken != nil || !p.mu.reading {
		return
	}
	p.mu.broken = err
	_ = http.NewResponseController(p.writer).SetReadDeadline(time.Now())
}

// cause is err, or what lies behind it.
func (p *passage) cause(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.broken != nil {
		return p.mu.broken
	}
	return err
}

// finished says that no more is to come of the exchange, so that its connection may be
// closed in order.
func (p *passage) finished() {
	if c := p.conn.Load(); c != nil {
		c.user.CompareAndSwap(p, nil)
	}
}
