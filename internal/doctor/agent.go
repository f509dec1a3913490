package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Agent is what to examine from an agent's machine.
type Agent struct {
	Server    string // host:port
	Token     tunnel.Token
	Roots     *x509.CertPool // trusted when the token has no fingerprint; nil: the system's
	Upstreams []agent.Upstream
	Resolver  *net.Resolver    // nil: the system's
	Proxy     agent.Proxy      // nil: none
	Transport link.Transport   // empty: link.Auto
	Now       func() time.Time // nil: time.Now
	Running   Running          // nil: nothing is asked of an agent that runs
}

// Run examines all, in the order in which an agent meets it, and stops where nothing
// further can work.
func (a Agent) Run(ctx context.Context, r *Report) {
	if a.Resolver == nil {
		a.Resolver = net.DefaultResolver
	}
	if a.Now == nil {
		a.Now = time.Now
	}
	defer a.proof(ctx, r)
	a.upstreams(ctx, r)
	if a.reach(ctx, r) && a.trust(ctx, r) {
		a.session(ctx, r)
	}
}

func (a Agent) upstreams(ctx context.Context, r *Report) {
	for _, u := range a.Upstreams {
		began := a.Now()
		if u.Network == "udp" || u.Network == "unixgram" {
			r.add("upstream", Skip, "", "%s takes datagrams, which nothing has to answer", u)
			continue
		}
		c, _, err := u.Dial(ctx, endpoint.Visitor{})
		if err != nil {
			r.add("upstream", Fail, "start the service, or correct its address", "%s can't be reached: %s", u, plain(err))
			continue
		}
		_ = c.Close()
		r.add("upstream", OK, "", "%s accepts connections (%s)", u, round(a.Now().Sub(began)))
	}
}

// reach finds out whether there is a way to the server's port.
func (a Agent) reach(ctx context.Context, r *Report) bool {
	if a.Proxy != nil {
		switch via, err := a.Proxy(a.Server); {
		case err != nil:
			r.add("proxy", Fail, "correct NO_PROXY", "%s", err)
			return false
		case via != nil:
			return a.proxied(ctx, r, via.Host)
		}
	}
	addresses := a.names(ctx, r)
	if a.Transport == link.QUIC { // which needs no TCP
		return len(addresses) > 0
	}
	return len(addresses) > 0 && a.ports(ctx, r, addresses)
}

// proxied connects to the proxy, and has it connect to the server.
func (a Agent) proxied(ctx context.Context, r *Report, via string) bool {
	began := a.Now()
	c, err := a.dialer().Connect(ctx, a.Server)
	switch {
	case errors.Is(err, link.ErrProxyAuth):
		r.add("proxy", Fail, "put user and password into the URL of the proxy: CULVERT_PROXY, proxy in the configuration, or HTTPS_PROXY", "%s: %s", via, err)
	case errors.Is(err, link.ErrProxy):
		r.add("proxy", Fail, "ask who runs the proxy to let connections to "+a.Server+" pass", "%s: %s", via, err)
	case err != nil:
		r.add("proxy", Fail, "check the proxy's address, or go without it by --proxy off", "%s: %s", via, plain(err))
	default:
		_ = c.Close()
		r.add("proxy", OK, "", "%s connects to %s (%s)", via, a.Server, round(a.Now().Sub(began)))
	}
	return err == nil
}

// dialer dials as agents do.
func (a Agent) dialer() *link.Dialer {
	return &link.Dialer{
		Fingerprint: a.Token.Fingerprint, Roots: a.Roots, Timeout: stepTimeout, Resolver: a.Resolver,
		Proxy: a.Proxy, Transport: a.Transport,
	}
}

// names resolves the server's host.
func (a Agent) names(ctx context.Context, r *Report) []string {
	host, _, _ := net.SplitHostPort(a.Server)
	addresses, err := lookup(ctx, a.Resolver, host)
	if err != nil {
		r.add("name", Fail, "check the spelling of the server's name, and this machine's DNS (/etc/resolv.conf)",
			"%s: %s", host, plain(err))
		return nil
	}
	if net.ParseIP(host) == nil {
		r.add("name", OK, "", "%s is %s", host, strings.Join(addresses, ", "))
	}
	return addresses
}

// ports connects to each address: one that does not answer makes agents slow, if not
// none does.
func (a Agent) ports(ctx context.Context, r *Report, addresses []string) bool {
	_, port, _ := net.SplitHostPort(a.Server)
	reached := false
	type failure struct{ address, why string }
	var failed []failure
	for _, ip := range addresses {
		address := net.JoinHostPort(ip, port)
		dialCtx, cancel := context.WithTimeout(ctx, stepTimeout)
		began := a.Now()
		c, err := (&net.Dialer{}).DialContext(dialCtx, "tcp", address)
		cancel()
		if err != nil {
			failed = append(failed, failure{address, plain(err)})
			continue
		}
		reached = true
		r.add("port", OK, "", "%s accepts connections (%s)", address, round(a.Now().Sub(began)))
		pathMTU(r, c)
		_ = c.Close()
	}
	for _, f := range failed {
		if reached {
			r.add("port", Warn, "take the address out of DNS if the server does not have it, or mend this machine's way to it", "%s: %s", f.address, f.why)
			continue
		}
		r.add("port", Fail, "see that the server runs, and that firewalls on both sides let port "+port+" pass; where only a proxy gets out, name it with --proxy",
			"%s: %s", f.address, f.why)
	}
	return reached
}

// trust makes the TLS handshake of a link, by each transport that may be used.
func (a Agent) trust(ctx context.Context, r *Report) bool {
	if a.Transport == link.QUIC || a.Transport == link.WebSocket {
		return a.by(ctx, r, a.Transport, Fail)
	}
	failed := a.overTCP(ctx, r)
	if a.Transport != link.TLS {
		instead := ""
		for _, t := range []link.Transport{link.QUIC, link.WebSocket} {
			if a.by(ctx, r, t, Skip) && instead == "" {
				instead = transports[t].name
			}
		}
		if failed != nil && instead != "" {
			r.add("tls", Warn, "nothing: agents use "+instead+" then; where TLS gets through unread, that is the fastest on most lines", "not by TLS over TCP alone: %s", plain(failed))
			return true
		}
	}
	if failed != nil {
		a.explain(ctx, r, failed)
	}
	return failed == nil
}

// transports are those that may get through where TLS over TCP does not.
var transports = map[link.Transport]struct{ name, advice string }{
	link.QUIC:      {"QUIC", "let UDP pass at the server's https port in firewalls on both sides, or leave the transport to the agent (--transport auto)"},
	link.WebSocket: {"WebSocket", "see that what stands in front of the server passes WebSockets at " + link.WebSocketPath + " to it"},
}

// by tries to link by one transport. bad is what it means if that fails.
func (a Agent) by(ctx context.Context, r *Report, t link.Transport, bad Status) bool {
	d := a.dialer()
	d.Transport = t
	c, err := d.Dial(ctx, a.Server)
	if err != nil {
		advice := ""
		if bad == Fail {
			advice = transports[t].advice
		}
		r.add(string(t), bad, advice, "links don't get through by %s: %s", transports[t].name, plain(err))
		return false
	}
	_ = c.Close()
	r.add(string(t), OK, "", "links get through by %s", transports[t].name)
	return true
}

// overTCP tries to link by TLS over TCP.
func (a Agent) overTCP(ctx context.Context, r *Report) error {
	d := a.dialer()
	d.Transport = link.TLS
	c, err := d.Dial(ctx, a.Server)
	if err == nil {
		defer c.Close() //nolint:errcheck // looked at
		state := c.ConnectionState()
		by := "signed by a CA this machine trusts"
		if a.Token.Fingerprint != "" {
			by = "signed by the CA in the token"
		}
		r.add("tls", OK, "", "%s, %s", tls.VersionName(state.Version), by)
		r.certificate("tls", "the server's certificate", state.PeerCertificates[0], a.Now())
	}
	return err
}

// explain says why no link gets through.
func (a Agent) explain(ctx context.Context, r *Report, err error) {
	host, _, _ := net.SplitHostPort(a.Server)
	chain, _ := presented(ctx, a.Resolver, a.Server, host, tunnel.ALPN)
	shown := "nothing"
	if len(chain) > 0 {
		shown = fmt.Sprintf("a certificate for %q from %q", tunnel.Clean(chain[0].Subject.CommonName+strings.Join(chain[0].DNSNames, " ")), tunnel.Clean(issuer(chain[0])))
	}
	switch {
	case errors.Is(err, link.ErrExpired) && len(chain) > 0:
		r.certificate("tls", "the server's certificate", chain[0], a.Now())
	case errors.Is(err, link.ErrWrongNode):
		r.add("tls", Fail, "use a token of this server; if it is one, something on the way breaks TLS open (a proxy of the network): ask for an exception",
			"the server's certificate is not signed by the CA in the token; it shows %s", shown)
	case link.Untrusted(err):
		r.add("tls", Fail, "use a token with a fingerprint, name the server's CA with --ca, or, if something on the way breaks TLS open, ask for an exception",
			"this machine does not trust the server's certificate; it shows %s", shown)
	case errors.Is(err, link.ErrNotANode), errors.Is(err, link.ErrNoAnswer):
		r.add("tls", Fail, "check the server's address and port; if they are right, a proxy or load balancer in front of it must pass TLS through unread",
			"what answers there is no Culvert server; it shows %s", shown)
	default:
		r.add("tls", Fail, "see that nothing between here and the server filters TLS 1.3", "%s", plain(err))
	}
}

// session lets an agent connect and visits it: what nobody sees from one side.
func (a Agent) session(ctx context.Context, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, 3*stepTimeout)
	defer cancel()
	online := make(chan string, 1)
	down := make(chan error, 1)
	listener := agent.NewListener(nil)
	defer listener.Close() //nolint:errcheck // returns nil
	inner := agent.New(agent.Config{
		Servers: []string{a.Server}, Token: a.Token, Roots: a.Roots, Resolver: a.Resolver,
		Proxy: a.Proxy, Transport: a.Transport, ID: uuid.NewString(), Generation: 1, Drain: time.Second,
		Logger:   slog.New(slog.DiscardHandler),
		Metadata: &tunnel.Metadata{Hostname: "culvert doctor"},
		Endpoints: []agent.Endpoint{{
			Spec: endpoint.Spec{Kind: endpoint.HTTP, Name: "doctor", Redirect: endpoint.RedirectNever}, Listener: listener,
		}},
		Online: func(_ string, urls []string) {
			select {
			case online <- urls[0]:
			default:
			}
		},
		Connected: func(err error) {
			if err == nil {
				return
			}
			select {
			case down <- err:
			default:
			}
		},
	})
	ended := make(chan error, 1)
	runCtx, stop := context.WithCancel(ctx)
	go func() { ended <- inner.Run(runCtx) }()
	srv := &http.Server{Handler: http.HandlerFunc(sample), ReadHeaderTimeout: stepTimeout}
	go srv.Serve(listener) //nolint:errcheck // ends with the listener
	defer srv.Close()      //nolint:errcheck // nothing is left
	finished := false
	defer func() {
		stop()
		inner.Abort()
		if !finished {
			<-ended //nolint:errcheck // it was asked to end
		}
	}()
	select {
	case at := <-online:
		r.add("session", OK, "", "the server accepts the token and gave the name %s", tunnel.Clean(at))
		a.latency(ctx, r, inner)
		a.visit(ctx, r, at)
	case err := <-ended:
		finished = true
		sessionFailed(r, err)
	case err := <-down:
		sessionFailed(r, err)
	case <-ctx.Done():
		r.add("session", Fail, "see the server's log", "the server did not answer in time")
	}
}

func sessionFailed(r *Report, err error) {
	var refusal *tunnel.RefusalError
	var bind *tunnel.BindError
	switch {
	case errors.As(err, &refusal) && refusal.Code == tunnel.CodeTokenInvalid:
		r.add("session", Fail, "make another with culvert token create on the server, then run culvert login", "%s", refusal)
	case errors.As(err, &bind) && bind.Code == tunnel.CodeNotAllowed:
		r.add("session", OK, "", "the server accepts the token")
		r.add("visit", Skip, "", "the token allows no random name, of which the doctor makes its visit: %s", bind)
	case errors.As(err, &refusal), errors.As(err, &bind):
		r.add("session", Fail, "see the server's log for more", "%s", err)
	default:
		r.add("session", Fail, "see the server's log", "the connection ended: %s", plain(err))
	}
}

// latency waits for the agent's own measurement.
func (a Agent) latency(ctx context.Context, r *Report, inner *agent.Agent) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(2 * time.Second)
	for {
		if ms := inner.Status().LatencyMS; ms > 0 {
			status, advice := OK, ""
			if ms > 500 {
				status, advice = Warn, "choose a server that is nearer, or see what else uses this line"
			}
			r.add("latency", status, advice, "%.1f ms to the server and back", ms)
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			r.add("latency", Warn, "see what else uses this line", "the server did not answer a ping within 2 s")
			return
		case <-ctx.Done():
			return
		}
	}
}

// sampleSize bounds what the visit moves, in bytes; sampleTime how long it may take.
const (
	sampleSize = 8 << 20
	sampleTime = 5 * time.Second
)

// sample answers with a body of sampleSize, and leaves the date to the server.
func sample(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Date"] = nil
	chunk := make([]byte, 64<<10)
	for range sampleSize / len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// visit comes to the agent as a visitor does: through the edge. It dials the server
// and not the name's address, which is another question.
func (a Agent) visit(ctx context.Context, r *Report, at string) {
	u, err := url.Parse(at)
	if err != nil {
		r.add("visit", Fail, "see the server's log", "the server gave the agent a URL that is none")
		return
	}
	d := a.dialer()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.Visit(ctx, a.Server, u.Hostname())
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, sampleTime+stepTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		r.add("visit", Fail, "see the server's log", "the server gave the agent a URL that is none")
		return
	}
	sent := a.Now()
	res, err := client.Do(req)
	if link.Untrusted(err) {
		r.add("visit", Skip, "", "visitors of the server would have to trust its own CA, and this machine does not: %s", plain(err))
		return
	}
	if err != nil {
		r.add("visit", Fail, "see the server's log", "a visitor gets no answer: %s", plain(err))
		return
	}
	defer res.Body.Close() //nolint:errcheck // read as far as there was time
	answered := a.Now()
	a.clock(r, res.Header.Get("Date"), sent, answered)
	if res.StatusCode != http.StatusOK {
		r.add("visit", Fail, "see the server's log", "a visitor gets %s (%s)", res.Status, tunnel.Clean(res.Header.Get("Culvert-Error")))
		return
	}
	r.add("visit", OK, "", "a visitor's request comes through in %s", round(answered.Sub(sent)))
	a.throughput(r, res.Body)
	if parent(u.Hostname()) == "localhost" {
		return // never in DNS
	}
	if addresses, err := lookup(ctx, a.Resolver, u.Hostname()); err != nil {
		r.add("public name", Warn, "add an address record for *."+parent(u.Hostname())+" that leads to the server", "%s: %s", u.Hostname(), plain(err))
	} else {
		r.add("public name", OK, "", "%s is %s", u.Hostname(), strings.Join(addresses, ", "))
	}
}

func parent(host string) string {
	_, domain, _ := strings.Cut(host, ".")
	return domain
}

// throughput reads a body that comes from this process through the server.
func (a Agent) throughput(r *Report, body io.Reader) {
	began := a.Now()
	buf := make([]byte, 64<<10)
	moved := 0
	for a.Now().Sub(began) < sampleTime {
		n, err := body.Read(buf)
		moved += n
		if err == io.EOF {
			break
		}
		if err != nil {
			r.add("throughput", Fail, "if small requests work and large ones hang, the path's MTU is smaller than this machine believes: lower it, or let ICMP pass",
				"the transfer broke off after %d bytes: %s", moved, plain(err))
			return
		}
	}
	took := max(a.Now().Sub(began), time.Millisecond)
	r.add("throughput", OK, "", "%.1f MB/s to the server and back", float64(moved)/1e6/took.Seconds())
}

// Differences of clocks.
const (
	clockWarn = 5 * time.Second // Date tells whole seconds
	clockFail = 5 * time.Minute // tokens and certificates begin to suffer
)

// clock compares this machine's clock with the server's.
func (a Agent) clock(r *Report, date string, sent, answered time.Time) {
	at, err := http.ParseTime(date)
	if err != nil {
		r.add("clock", Skip, "", "the server's answer has no date")
		return
	}
	mine := sent.Add(answered.Sub(sent) / 2)
	skew := mine.Sub(at.Add(500 * time.Millisecond)).Round(time.Second)
	const advice = "let both machines keep their time by NTP (timedatectl set-ntp true)"
	word := "ahead of"
	if skew < 0 {
		word = "behind"
	}
	switch {
	case skew.Abs() >= clockFail:
		r.add("clock", Fail, advice, "this machine's clock is %s %s the server's", skew.Abs(), word)
	case skew.Abs() >= clockWarn:
		r.add("clock", Warn, advice, "this machine's clock is %s %s the server's", skew.Abs(), word)
	default:
		r.add("clock", OK, "", "this machine and the server agree on the time")
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
