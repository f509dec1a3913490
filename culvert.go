// Package culvert publishes services of this process, or of its neighbours, through a
// Culvert server: what the command culvert http does, as a library.
//
//	l, err := culvert.Listen(ctx, culvert.Config{}, culvert.Endpoint{Name: "app"})
//	if err != nil {
//		return err
//	}
//	fmt.Println("open", l.URL())
//	return http.Serve(l, handler)
//
// [Listen] and [Forward] publish one endpoint. [Connect] makes an [Agent], which
// publishes any number of them over one connection to the server.
//
// A [Listener] stays valid while the connection to the server comes and goes: it is
// made again for ever, and the names come back with it. Only what can't get better by
// trying again ends it, such as a revoked token.
package culvert

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// Config says how an [Agent] reaches its server. The zero value uses what culvert login
// saved for this user.
type Config struct {
	// Server is the server's host or host:port, or several with commas between them, of
	// which two serve at a time, and the next one is dialled when one can't be reached. Default: the variable
	// CULVERT_SERVER, then the saved login's.
	Server string
	// Token is the agent's token. Default: the variable CULVERT_TOKEN, then the saved
	// login's if Server is the login's too.
	Token string
	// Roots are the CAs that may sign the server's certificate, if the token holds no
	// fingerprint. Default: the system's.
	Roots *x509.CertPool
	// Proxy is dialled through: http://, https:// or socks5://[USER:PASSWORD@]HOST[:PORT], or
	// off. Default: CULVERT_PROXY, then HTTPS_PROXY or ALL_PROXY, but for NO_PROXY.
	Proxy string
	// Transport carries the connection: auto, tls, quic or websocket. Default: auto, what gets
	// through.
	Transport string
	// State is a directory that keeps who this agent is, so that names which the server
	// picks are the same after a restart, and so that a restarted process takes its
	// names over at once from one that died. Default: none; each Agent is a new one.
	State string
	// Drain is how long connections may go on after Shutdown or a Listener's Close.
	// Default: 10 s.
	Drain time.Duration
	// Logger gets what the command would log. Default: nothing is logged.
	Logger *slog.Logger
	// Events, if set, is told what happens, one event at a time. It must not block.
	Events func(Event)
}

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	Connected    EventKind = "connected"    // to the server
	Disconnected EventKind = "disconnected" // Err says why; it is tried again
	Online       EventKind = "online"       // visitors reach Endpoint at URLs
	Lost         EventKind = "lost"         // Endpoint was given up; Err says why
)

// Event is something that happened to an [Agent].
type Event struct {
	Kind     EventKind
	Endpoint Endpoint // of Online and Lost: as it was asked for
	URLs     []string // of Online
	Err      error    // of Disconnected and Lost
}

// Agent is a connection to a server, made again whenever it is lost, and the endpoints
// that are published over it. Its methods may be called from any goroutine.
type Agent struct {
	inner  *agent.Agent
	events func(Event)
	drain  time.Duration
	stop   context.CancelFunc
	done   chan struct{} // closed when all has ended
	up     chan struct{} // closed when the first connection stands

	telling sync.Mutex // one event at a time; taken before mu

	mu struct {
		sync.Mutex
		connected bool // ever
		count     int  // of endpoints, ever
		published map[string]*published
		err       error // why the agent ended
	}
}

// Connect makes an agent and waits until it is connected. As long as ctx allows, a
// server that can't be reached is waited for; one that refuses the agent, or is not
// the one to trust, is an error at once. After Connect has returned, ctx means
// nothing to the agent: end it with [Agent.Shutdown] or [Agent.Close].
func Connect(ctx context.Context, cfg Config) (*Agent, error) {
	a, err := begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	select {
	case <-a.up:
		return a, nil
	case <-a.done:
		return nil, a.ended()
	case <-ctx.Done():
		defer a.Close() //nolint:errcheck // returns nil
		return nil, a.late(ctx)
	}
}

// begin makes an agent that works on being connected.
func begin(ctx context.Context, cfg Config) (*Agent, error) {
	inner, err := cfg.agent()
	if err != nil {
		return nil, fmt.Errorf("culvert: %w", err)
	}
	a := &Agent{events: cfg.Events, drain: inner.Drain, done: make(chan struct{}), up: make(chan struct{})}
	a.mu.published = make(map[string]*published)
	inner.Online, inner.Lost, inner.Connected = a.online, a.lost, a.connected
	a.inner = agent.New(inner)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = stop
	go a.run(run)
	return a, nil
}

// agent completes what the user left out.
func (cfg Config) agent() (agent.Config, error) {
	c := agent.Config{Roots: cfg.Roots, Drain: cfg.Drain, Logger: cfg.Logger}
	server, token, err := config.Find(os.LookupEnv, cfg.Server, cfg.Token) //nolint:forbidigo // a library has no main to hand it down
	if err != nil {
		return c, err
	}
	if c.Servers, err = config.HostPorts(server, "443"); err != nil {
		return c, err
	}
	if c.Token, err = tunnel.ParseToken(token); err != nil {
		return c, err
	}
	if c.Transport, err = link.ParseTransport(cfg.Transport); err != nil {
		return c, err
	}
	explicit := cfg.Proxy
	if explicit == "" {
		explicit = os.Getenv(config.EnvName("proxy")) //nolint:forbidigo // as above
	}
	if c.Proxy, err = config.Proxies(os.LookupEnv, explicit, link.ParseProxy); err != nil { //nolint:forbidigo // as above
		return c, err
	}
	c.State = cfg.State
	c.ID, c.Generation = uuid.NewString(), uint64(time.Now().UnixMilli()) //nolint:gosec // after 1970
	if cfg.State != "" {
		id, err := agent.NextIdentity(cfg.State)
		if err != nil {
			return c, err
		}
		c.ID, c.Generation = id.ID, id.Generation
	}
	if c.Drain <= 0 {
		c.Drain = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	host, _ := os.Hostname()
	c.Metadata = &tunnel.Metadata{Version: version.String(), Os: runtime.GOOS, Arch: runtime.GOARCH, Hostname: host}
	return c, nil
}

func (a *Agent) run(ctx context.Context) {
	err := a.inner.Run(ctx)
	if err == nil {
		err = net.ErrClosed
	}
	err = wrap(err)
	a.mu.Lock()
	a.mu.err = err
	left := a.mu.published
	a.mu.published = nil
	a.mu.Unlock()
	for _, p := range left {
		p.end(err)
	}
	close(a.done)
}

// ended is why the agent has ended.
func (a *Agent) ended() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Errorf("culvert: %w", a.mu.err)
}

// late is the error of a wait that ctx has ended, with what was waited for.
func (a *Agent) late(ctx context.Context) error {
	if last := a.inner.Status().Error; last != "" {
		return fmt.Errorf("culvert: %w: %s", context.Cause(ctx), last)
	}
	return fmt.Errorf("culvert: %w", context.Cause(ctx))
}

// Done is closed when the agent has ended: after Shutdown or Close, or because it can't
// go on, as [Agent.Err] says.
func (a *Agent) Done() <-chan struct{} { return a.done }

// Err is why the agent has ended: [net.ErrClosed] after Shutdown or Close; nil while
// it works.
func (a *Agent) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.err
}

// Shutdown gives all names back, lets the visitors' connections finish until ctx ends
// or Config.Drain has passed, and ends the agent. Its error is that of ctx.
func (a *Agent) Shutdown(ctx context.Context) error {
	a.stop()
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		_ = a.Close()
		return ctx.Err()
	}
}

// Close ends the agent and all its connections at once. It returns nil.
func (a *Agent) Close() error {
	a.inner.Abort()
	a.stop()
	<-a.done
	return nil
}

func (a *Agent) tell(e Event) {
	if a.events == nil {
		return
	}
	a.telling.Lock()
	defer a.telling.Unlock()
	a.events(e)
}

func (a *Agent) connected(err error) {
	if err != nil {
		a.tell(Event{Kind: Disconnected, Err: wrap(err)})
		return
	}
	a.mu.Lock()
	first := !a.mu.connected
	a.mu.connected = true
	a.mu.Unlock()
	if first {
		close(a.up)
	}
	a.tell(Event{Kind: Connected})
}

func (a *Agent) online(name string, urls []string) {
	if p := a.find(name); p != nil {
		p.setOnline(urls)
		a.tell(Event{Kind: Online, Endpoint: p.asked, URLs: urls})
	}
}

func (a *Agent) lost(name string, err *tunnel.BindError) {
	if p := a.find(name); p != nil {
		p.end(wrap(err))
		a.tell(Event{Kind: Lost, Endpoint: p.asked, Err: wrap(err)})
	}
}

func (a *Agent) find(name string) *published {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.published[name]
}

// register gives an endpoint its name at the agent: the same for the n-th of a kind in
// every run, so that a name the server picks for it is the same too.
func (a *Agent) register(p *published) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.published == nil {
		return "", fmt.Errorf("culvert: %w", a.mu.err)
	}
	a.mu.count++
	name := "sdk-" + strconv.Itoa(a.mu.count)
	a.mu.published[name] = p
	return name, nil
}

func (a *Agent) unregister(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mu.published, name)
}
