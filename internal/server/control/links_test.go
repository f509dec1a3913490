package control

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// resuming is an agent whose links can be resumed, on a network that can be cut.
type resuming struct {
	*peer
	welcome *tunnel.Welcome
	ended   chan struct{}

	mu      sync.Mutex
	conn    net.Conn
	attempt uint64
	refuse  bool // redialling
}

// stop ends the link, and waits.
func (r *resuming) stop() {
	_ = r.link.Close()
	<-r.ended
}

// cut ends the present connection. Without again there is to be no other.
func (r *resuming) cut(again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = !again
	_ = r.conn.Close()
}

func (b *bench) resuming() *resuming {
	b.t.Helper()
	r := &resuming{conn: b.conn(), ended: make(chan struct{})}
	h := hello()
	h.Features = []string{tunnel.FeatureResume, "unknown"}
	r.welcome = b.greet(r.conn, h).GetWelcome()
	if len(r.welcome.GetResumeKey()) != 32 || r.welcome.GetResumeWindowMs() != 30_000 || len(r.welcome.GetFeatures()) != 1 {
		b.t.Fatalf("welcome %v", r.welcome)
	}
	l := link.Client(r.conn, link.Config{Resume: &link.Resume{Redial: r.redial}})
	go func() {
		_ = l.Run(b.t.Context())
		close(r.ended)
	}()
	ctl, err := l.Open(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	r.peer = &peer{bench: b, link: l, ctl: ctl}
	return r
}

func (r *resuming) redial(_ context.Context, received uint64) (net.Conn, uint64, error) {
	r.mu.Lock()
	refuse := r.refuse
	r.mu.Unlock()
	if refuse {
		return nil, 0, io.ErrUnexpectedEOF
	}
	conn := r.bench.conn()
	w := r.greet(conn, r.hello(tunnel.LinkMode_LINK_MODE_RESUME, received)).GetWelcome()
	if w == nil {
		return nil, 0, link.ErrGone
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = conn
	return conn, w.GetReceived(), nil
}

// hello is a Hello to resume or join, as it has to be.
func (r *resuming) hello(mode tunnel.LinkMode, received uint64) *tunnel.Hello {
	r.mu.Lock()
	r.attempt++
	h := hello()
	defer r.mu.Unlock()
	h.Mode, h.Received, h.Attempt = mode, received, r.attempt
	h.SessionId, h.LinkId = r.welcome.GetSessionId(), r.welcome.GetLinkId()
	h.ResumeProof = tunnel.Proof(r.welcome.GetResumeKey(), h)
	return h
}

// TestResume: a session outlives its connections, with its names and its streams.
func TestResume(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		for range 20 {
			r.cut(true)
			r.alive()
		}
		if !b.serves("app.example.com") || b.control.Sessions() != 1 {
			t.Error("the name is gone")
		}
	})
}

// TestResumeIsProven: nobody resumes or joins what is not his, or does so twice.
func TestResumeIsProven(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		prove := func(h *tunnel.Hello) *tunnel.Hello {
			h.ResumeProof = tunnel.Proof(r.welcome.GetResumeKey(), h)
			return h
		}
		for _, mode := range []tunnel.LinkMode{tunnel.LinkMode_LINK_MODE_RESUME, tunnel.LinkMode_LINK_MODE_JOIN} {
			for name, change := range map[string]func(h *tunnel.Hello){
				"no proof":             func(h *tunnel.Hello) { h.ResumeProof = nil },
				"proof by another key": func(h *tunnel.Hello) { h.ResumeProof = tunnel.Proof(make([]byte, 32), h) },
				"proof by no key":      func(h *tunnel.Hello) { h.ResumeProof = tunnel.Proof(nil, h) },
				"another count":        func(h *tunnel.Hello) { h.Received++ },
				"another attempt":      func(h *tunnel.Hello) { h.Attempt++ },
				"another mode":         func(h *tunnel.Hello) { h.Mode = 3 - h.GetMode() },
				"no attempt":           func(h *tunnel.Hello) { h.Attempt = 0; prove(h) },
				"another agent":        func(h *tunnel.Hello) { h.AgentId = "other"; prove(h) },
				"another run":          func(h *tunnel.Hello) { h.Generation++; prove(h) },
				"another token":        func(h *tunnel.Hello) { h.Token = "other"; prove(h) },
				"another session":      func(h *tunnel.Hello) { h.SessionId = make([]byte, 16); prove(h) },
				"another link":         func(h *tunnel.Hello) { h.LinkId = make([]byte, 16); prove(h) },
				"no link":              func(h *tunnel.Hello) { h.LinkId = nil; prove(h) },
			} {
				h := r.hello(mode, 0)
				change(h)
				if got := b.greet(b.conn(), h).GetRefusal(); got.GetCode() != string(tunnel.CodeModeUnsupported) {
					t.Errorf("%v, %s: %v", mode, name, got)
				}
			}
		}
		h := r.hello(tunnel.LinkMode_LINK_MODE_JOIN, 0)
		if b.greet(b.conn(), h).GetWelcome() == nil {
			t.Error("an orderly Hello was refused")
		}
		if again := b.greet(b.conn(), proto.CloneOf(h)).GetRefusal(); again == nil {
			t.Error("a Hello counted twice")
		}
		// A Hello to join that was faster than one to resume is no reason to refuse that.
		late := r.hello(tunnel.LinkMode_LINK_MODE_RESUME, 0)
		for _, h := range []*tunnel.Hello{r.hello(tunnel.LinkMode_LINK_MODE_JOIN, 0), late} {
			if _, err := b.control.known(h); err != nil {
				t.Errorf("%v: %v", h.GetMode(), err)
			}
			if _, err := b.control.known(h); err == nil {
				t.Errorf("%v: counted twice", h.GetMode())
			}
		}
		r.alive() // none of this did it any harm
	})
}

// TestAwayTooLong: without a new connection in time the session ends, and its names wait
// for their agent.
func TestAwayTooLong(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		r.cut(false)
		<-time.After(link.ResumeWindow - time.Second)
		if b.control.Sessions() != 1 || !b.serves("app.example.com") {
			t.Error("given up too early")
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if b.control.Sessions() != 0 || b.serves("app.example.com") {
			t.Error("not given up")
		}
	})
}

// TestRevokedWhileAway: a revoked token ends a session that waits to be resumed at once.
func TestRevokedWhileAway(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		r.cut(false)
		<-time.After(time.Second)
		b.mu.Lock()
		b.tokens["good"] = false
		b.mu.Unlock()
		b.control.Revoke("good")
		synctest.Wait()
		if b.control.Sessions() != 0 || b.serves("app.example.com") {
			t.Error("the session waits on")
		}
		got := b.greet(b.conn(), r.hello(tunnel.LinkMode_LINK_MODE_RESUME, 0)).GetRefusal()
		if got.GetCode() != string(tunnel.CodeTokenInvalid) {
			t.Errorf("to resume: %v", got)
		}
	})
}

// TestGhostEnds: an agent that starts anew ends the session that waits for it in vain;
// visitors who wait there go on to the new one.
func TestGhostEnds(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		r.cut(false)
		synctest.Wait()
		route, _ := b.names.Find(endpoint.Name{Kind: endpoint.HTTP, Host: "app.example.com"})
		visit := make(chan error, 1)
		go func() {
			_, err := route.Open(t.Context(), endpoint.Visitor{}, nil)
			visit <- err
		}()
		synctest.Wait()
		h := hello()
		h.Generation = 2
		p := b.agent(h)
		if err := <-visit; err == nil {
			t.Error("the visitor was sent to the ghost")
		}
		p.bind("app.example.com")
		synctest.Wait() // the ghost may still be on its way out
		if b.control.Sessions() != 1 || !b.serves("app.example.com") {
			t.Errorf("%d sessions", b.control.Sessions())
		}
	})
}

// TestJoin: streams are spread over a session's links, up to the limit, and the links end
// with the session.
func TestJoin(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		r := b.resuming()
		defer r.stop()
		r.bind("app.example.com")
		var links []*link.Link
		for range maxLinks - 1 {
			c := b.conn()
			if b.greet(c, r.hello(tunnel.LinkMode_LINK_MODE_JOIN, 0)).GetWelcome() == nil {
				t.Fatal("refused")
			}
			l := link.Client(c, link.Config{})
			go func() { _ = l.Run(t.Context()) }()
			t.Cleanup(func() { _ = l.Close() })
			links = append(links, l)
		}
		if got := b.greet(b.conn(), r.hello(tunnel.LinkMode_LINK_MODE_JOIN, 0)).GetRefusal(); got.GetCode() != string(tunnel.CodeTooManyLinks) || got.GetRetryable() {
			t.Errorf("one too many: %v", got)
		}
		_ = r.link.Close()
		for _, l := range links {
			<-l.Done()
		}
	})
}
