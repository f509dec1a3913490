package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// Kind says how visitors reach an endpoint.
type Kind string

// The kinds of endpoints.
const (
	HTTP Kind = "http" // by host name; the server ends the visitors' TLS
	TLS  Kind = "tls"  // by TLS server name; the visitors' TLS comes through unread
	TCP  Kind = "tcp"  // by port
	UDP  Kind = "udp"  // by port; can be forwarded, not listened to
)

// Endpoint is a public URL to ask for. The zero value is an HTTP endpoint under a name
// that the server picks.
type Endpoint struct {
	// URL is the whole of it: https://app.example.com, http://app.example.com (not on
	// the TLS port), tls://db.example.com, tcp://:20022 or udp://:20053. Default: by
	// Kind and Name.
	URL string
	// Kind is needed only without a URL. Default: HTTP.
	Kind Kind
	// Name is a name below the server's domain, for HTTP and TLS without a URL.
	// Default: the server picks one.
	Name string
	// H2C says that the service speaks HTTP/2 without TLS and nothing else, as a gRPC
	// server does. For HTTP endpoints that are listened to; Forward knows by the
	// upstream. Default: HTTP/1.1.
	H2C bool
	// HostHeader is the Host that the service sees, for HTTP. Default: the visitor's.
	HostHeader string
	// ClientCA holds certificates of CAs (PEM), of which the server asks visitors for a
	// certificate, for HTTP; requests tell of it in the headers Client-Cert (RFC 9440),
	// X-Client-Cert-Subject, -Serial and -Fingerprint. Where TLS is yours to speak, so is
	// that. Default: none is asked for.
	ClientCA string
	// Pool shares the URL or name with the endpoints of other agents of the token that
	// have one too: each visitor gets one of them. Default: the endpoint is alone.
	Pool *Pool
}

// Pool says how an endpoint shares its URL. What decides about visitors must be the same
// for all that share one; Weight is each one's own.
type Pool struct {
	// RoundRobin leads visitors to one member after the other. Default: to the one that
	// has the fewest for its weight.
	RoundRobin bool
	// Sticky is "cookie" (HTTP) or "address": a visitor who is known again stays with the
	// member that he had. Default: he may get another.
	Sticky string
	// Weight is from 1 to 100. Default: 1.
	Weight int
}

// spec checks what the user asks for.
func (e Endpoint) spec(name string) (endpoint.Spec, error) {
	spec := endpoint.Spec{Kind: endpoint.Kind(e.Kind)}
	if e.URL != "" {
		if e.Name != "" {
			return spec, fmt.Errorf("culvert: endpoint %s: URL and Name exclude each other", e.URL)
		}
		var err error
		if spec, err = endpoint.ParseURL(e.URL); err != nil {
			return spec, fmt.Errorf("culvert: %w", err)
		}
		if e.Kind != "" && spec.Kind != endpoint.Kind(e.Kind) {
			return spec, fmt.Errorf("culvert: %s is the URL of a %s endpoint, not of a %s one", e.URL, spec.Kind, e.Kind)
		}
	}
	if spec.Kind == "" {
		spec.Kind = endpoint.HTTP
	}
	spec.Name, spec.Label, spec.HostHeader = name, e.Name, e.HostHeader
	if e.H2C {
		spec.UpstreamProtocol = endpoint.H2C
	}
	if p := e.Pool; p != nil {
		spec.Pool = endpoint.Pool{Shared: true, Sticky: endpoint.Sticky(p.Sticky), Weight: p.Weight}
		if p.RoundRobin {
			spec.Pool.Balance = endpoint.RoundRobin
		}
	}
	spec.ClientCA = e.ClientCA
	if err := spec.Validate(); err != nil {
		return spec, fmt.Errorf("culvert: %w", err)
	}
	return spec, nil
}

// published is an endpoint at work.
type published struct {
	agent *Agent
	asked Endpoint
	name  string
	owns  bool // the agent was made for it

	first  chan struct{} // closed when it is online for the first time
	done   chan struct{} // closed by end
	ending sync.Once
	onEnd  func(error)

	mu struct {
		sync.Mutex
		urls []string
		err  error // why it ended
	}
}

func (p *published) setOnline(urls []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.urls == nil {
		close(p.first)
	}
	p.mu.urls = urls
}

// end marks the endpoint as ended; the first reason counts.
func (p *published) end(err error) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.mu.err = err
		p.mu.Unlock()
		if p.onEnd != nil {
			p.onEnd(err)
		}
		close(p.done)
	})
}

// URL is the public URL.
func (p *published) URL() string { return p.URLs()[0] }

// URLs are all public URLs, that of URL first. An HTTP endpoint has a second one, for
// the server's port without TLS.
func (p *published) URLs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.mu.urls...)
}

// Agent is the agent that publishes this.
func (p *published) Agent() *Agent { return p.agent }

// Done is closed when this is published no more: after Close, or because it can't go
// on, as Err says.
func (p *published) Done() <-chan struct{} { return p.done }

// Err is why this is published no more: [net.ErrClosed] after Close; nil while it is.
func (p *published) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}

// Close gives the URL back. Visitors' connections may finish; an agent that [Listen]
// or [Forward] made ends after them, at the latest when Config.Drain has passed. It
// returns nil.
func (p *published) Close() error {
	p.end(net.ErrClosed)
	p.agent.unregister(p.name)
	p.agent.inner.Remove(p.name)
	if p.owns {
		p.agent.stop()
	}
	return nil
}

// publish serves e and waits until it can be used.
func (a *Agent) publish(ctx context.Context, p *published, e agent.Endpoint) error {
	if err := a.inner.Add(e); err != nil {
		return fmt.Errorf("culvert: %w", err)
	}
	select {
	case <-p.first:
		return nil
	case <-p.done:
		_ = p.Close()
		return fmt.Errorf("culvert: %w", p.Err())
	case <-ctx.Done():
		_ = p.Close()
		return a.late(ctx)
	}
}

// prepare registers an endpoint.
func (a *Agent) prepare(asked Endpoint, onEnd func(error)) (*published, endpoint.Spec, error) {
	p := &published{agent: a, asked: asked, first: make(chan struct{}), done: make(chan struct{}), onEnd: onEnd}
	if _, err := asked.spec(""); err != nil {
		return nil, endpoint.Spec{}, err
	}
	var err error
	if p.name, err = a.register(p); err != nil {
		return nil, endpoint.Spec{}, err
	}
	spec, err := asked.spec(p.name)
	return p, spec, err
}

// Listener is a [net.Listener] whose connections are those of an endpoint's visitors.
//
// RemoteAddr of a connection is the visitor's address and LocalAddr the one at which he
// came to the server. On an HTTP endpoint the server sends requests of many visitors
// over one connection, as every reverse proxy does; wrap your handler in [Visitors]
// there. Connections can be half-closed (CloseWrite). TLS of a TLS endpoint is yours to
// speak: wrap the listener with [crypto/tls.NewListener].
type Listener struct {
	*published
	inner *agent.Listener
}

// Accept waits for the next visitor. It fails with an error that is [net.ErrClosed]
// after Close, and with the reason when the endpoint was lost for good.
func (l *Listener) Accept() (net.Conn, error) { return l.inner.Accept() }

// Addr is the public address as host:port.
func (l *Listener) Addr() net.Addr { return publicAddr{l.published} }

// publicAddr is the address behind an endpoint's URL.
type publicAddr struct{ p *published }

func (publicAddr) Network() string { return "tcp" }
func (a publicAddr) String() string {
	u, err := url.Parse(a.p.URL())
	if err != nil {
		return a.p.URL()
	}
	if u.Port() == "" && (u.Scheme == "http") {
		return net.JoinHostPort(u.Hostname(), "80")
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// Listen publishes an endpoint and returns the listener for its visitors, once they can
// come. Other than that ctx means nothing to the listener.
func (a *Agent) Listen(ctx context.Context, e Endpoint) (*Listener, error) {
	l := &Listener{inner: agent.NewListener(nil)}
	p, spec, err := a.prepare(e, l.inner.End)
	if err != nil {
		return nil, err
	}
	if spec.Kind == endpoint.UDP {
		_ = p.Close()
		return nil, errUDP
	}
	l.published = p
	if err := a.publish(ctx, p, agent.Endpoint{Spec: spec, Listener: l.inner}); err != nil {
		return nil, err
	}
	return l, nil
}

var errUDP = errors.New("culvert: a udp endpoint has no connections to accept: use Forward")

// Forwarder is an endpoint whose visitors go to a service outside this process.
type Forwarder struct{ *published }

// Wait waits until the endpoint is published no more and returns Err, or that of ctx.
func (f *Forwarder) Wait(ctx context.Context) error {
	select {
	case <-f.Done():
		return f.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Forward publishes an endpoint for an upstream, which is written as on the command
// line: 3000, host:port, http://…, https://…, h2c://… or unix:/path. It returns once
// visitors can come.
func (a *Agent) Forward(ctx context.Context, e Endpoint, upstream string) (*Forwarder, error) {
	up, err := agent.ParseUpstream(upstream, agent.UpstreamTLS{})
	if err != nil {
		return nil, fmt.Errorf("culvert: %w", err)
	}
	p, spec, err := a.prepare(e, nil)
	if err != nil {
		return nil, err
	}
	if spec.Kind == endpoint.UDP {
		up = up.ForDatagrams()
	}
	if up.Protocol != "" {
		spec.UpstreamProtocol = up.Protocol
	}
	if err := spec.Validate(); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("culvert: %w", err)
	}
	if err := a.publish(ctx, p, agent.Endpoint{Spec: spec, Upstream: up}); err != nil {
		return nil, err
	}
	return &Forwarder{p}, nil
}

// Listen connects to a server and publishes one endpoint there. The connection ends
// with the listener. See [Agent.Listen].
func Listen(ctx context.Context, cfg Config, e Endpoint) (*Listener, error) {
	a, err := begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l, err := a.Listen(ctx, e)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	l.owns = true
	return l, nil
}

// Forward connects to a server and publishes one endpoint there for an upstream. The
// connection ends with the forwarder. See [Agent.Forward].
func Forward(ctx context.Context, cfg Config, e Endpoint, upstream string) (*Forwarder, error) {
	a, err := begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	f, err := a.Forward(ctx, e, upstream)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	f.owns = true
	return f, nil
}
