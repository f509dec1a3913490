package registry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Request asks for a name.
type Request struct {
	Spec  endpoint.Spec // validated
	Owner Owner
	// Allow judges whether the owner may bind a name; nil allows all.
	Allow func(endpoint.Name) bool
	Open  OpenFunc
	// Lost is told when another session takes the name over. It is called without
	// locks held, must not block, and may be called before Bind returns to the
	// caller that is being overtaken.
	Lost func(*Route, *tunnel.BindError)
}

// Bind gives the asked name to the owner. The error is a *tunnel.BindError.
func (r *Registry) Bind(req Request) (*Route, error) {
	if req.Spec.Kind == endpoint.TCP {
		return r.bindPort(req)
	}
	return r.bindHost(req)
}

func refuse(code tunnel.Code, format string, args ...any) *tunnel.BindError {
	return &tunnel.BindError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// randomTries is how many random names are tried before giving up. They are drawn
// from more than a million, so even one clash is rare.
const randomTries = 20

func (r *Registry) bindHost(req Request) (*Route, error) {
	s := req.Spec
	below := func(label string) endpoint.Name {
		return endpoint.Name{Kind: s.Kind, Host: label + "." + r.cfg.Domain}
	}
	switch {
	case s.Host != "":
		if !strings.Contains(s.Host, ".") && s.Host != r.cfg.Domain {
			return nil, refuse(tunnel.CodeNameInvalid, "%q is no full host name: write it with its domain, or use --name for a name below %s", s.Host, r.cfg.Domain)
		}
		return r.claim(endpoint.Name{Kind: s.Kind, Host: s.Host}, req)
	case s.Label != "":
		return r.claim(below(s.Label), req)
	}
	for try := range randomTries {
		name := below(randomLabel(req.Owner.AgentID, s, try))
		if req.Allow != nil && !req.Allow(name) {
			return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind a random name: ask for one it allows with --name or --url")
		}
		route, err := r.claim(name, req)
		if err == nil || !isTaken(err) {
			return route, err
		}
	}
	return nil, refuse(tunnel.CodeNameTaken, "no random name is free: ask for one with --name")
}

func isTaken(err error) bool {
	var b *tunnel.BindError
	return errors.As(err, &b) && (b.Code == tunnel.CodeNameTaken || b.Code == tunnel.CodePortTaken || b.Code == tunnel.CodeNotAllowed)
}

func isDenied(err error) bool {
	var b *tunnel.BindError
	return errors.As(err, &b) && b.Code == tunnel.CodeNotAllowed
}

func (r *Registry) bindPort(req Request) (*Route, error) {
	ports := r.cfg.TCPPorts
	if r.cfg.Listen == nil || ports.Size() == 0 {
		return nil, refuse(tunnel.CodeKindUnsupported, "this server has no ports for tcp endpoints: start it with --tcp-ports")
	}
	if p := req.Spec.Port; p != 0 {
		if !ports.Contains(p) {
			return nil, refuse(tunnel.CodePortOutsideRange, "port %d is outside this server's range %s", p, ports)
		}
		return r.claim(endpoint.Name{Kind: endpoint.TCP, Port: p}, req)
	}
	// The first try is the same for the same agent and endpoint; from there on the
	// range is walked once.
	start := int(seed(req.Owner.AgentID, req.Spec, 0) % uint64(ports.Size())) //nolint:gosec // below Size
	allowed := false
	for i := range ports.Size() {
		port := ports.First + uint16((start+i)%ports.Size()) //nolint:gosec // below 65536
		route, err := r.claim(endpoint.Name{Kind: endpoint.TCP, Port: port}, req)
		if err == nil || !isTaken(err) {
			return route, err
		}
		allowed = allowed || !isDenied(err)
	}
	if !allowed {
		return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind any of the ports %s", ports)
	}
	return nil, refuse(tunnel.CodePortsExhausted, "all ports of %s are taken", ports)
}

// claim makes the owner's route the one of name, or says why not.
func (r *Registry) claim(name endpoint.Name, req Request) (*Route, error) {
	if req.Allow != nil && !req.Allow(name) {
		return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind %s", name)
	}
	if name.Host != "" && name.Host == r.cfg.Domain {
		return nil, refuse(tunnel.CodeNameReserved, "%s is the server's own name", name.Host)
	}
	route := &Route{ID: uuid.NewString(), Name: name, Spec: req.Spec, Owner: req.Owner, open: req.Open, lost: req.Lost}

	r.mu.Lock()
	e, err := r.entryForLocked(name, req.Owner)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	if name.Kind == endpoint.TCP && e == nil {
		// Listening is a system call that does not wait, so it may be made under the
		// lock; outside it two claims for one port would have to be told apart.
		port, err := r.listen(name.Port)
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
		e = &entry{port: port, changed: make(chan struct{})}
		r.mu.entries[name] = e
	}
	if e == nil {
		e = &entry{changed: make(chan struct{})}
		r.mu.entries[name] = e
	}
	var overtaken *Route
	if e.route != nil && e.state == live {
		overtaken = e.route
	}
	e.route = route
	r.setLocked(e, live)
	r.mu.Unlock()

	if overtaken != nil && overtaken.lost != nil {
		overtaken.lost(overtaken, refuse(tunnel.CodeSuperseded, "%s is served by a newer run of this agent now", name))
	}
	return route, nil
}

// entryForLocked returns the entry that the owner may take for name, nil if there
// is none yet, or the reason against it.
func (r *Registry) entryForLocked(name endpoint.Name, owner Owner) (*entry, error) {
	if r.mu.closed {
		return nil, &tunnel.BindError{Code: tunnel.CodeDraining, Message: "the server is shutting down", Retryable: true}
	}
	e := r.mu.entries[name]
	if e == nil || e.state == released || e.state == offline {
		return e, r.otherKindLocked(name, owner)
	}
	has := e.route.Owner
	switch {
	case has.AgentID != owner.AgentID:
		err := refuse(tunnel.CodeNameTaken, "%s is taken by another agent", name)
		if name.Kind == endpoint.TCP {
			err = refuse(tunnel.CodePortTaken, "port %d is taken by another agent", name.Port)
		}
		err.Retryable = e.state == held
		return nil, err
	case has.Generation > owner.Generation:
		return nil, refuse(tunnel.CodeSuperseded, "%s is served by a newer run of this agent", name)
	case has.SessionID == owner.SessionID && e.state == live:
		return nil, refuse(tunnel.CodeNameTaken, "%s is bound by this agent already", name)
	}
	return e, nil
}

// otherKindLocked refuses a host that is bound as the other of HTTP and TLS: the
// two share the TLS port.
func (r *Registry) otherKindLocked(name endpoint.Name, owner Owner) error {
	other := endpoint.Name{Host: name.Host}
	switch name.Kind {
	case endpoint.HTTP:
		other.Kind = endpoint.TLS
	case endpoint.TLS:
		other.Kind = endpoint.HTTP
	case endpoint.TCP:
		return nil
	}
	o := r.mu.entries[other]
	if o == nil || o.state == released || o.state == offline {
		return nil
	}
	if o.state == held && o.route.Owner.AgentID == owner.AgentID {
		return nil
	}
	return refuse(tunnel.CodeNameTaken, "%s is taken by a %s endpoint", name.Host, other.Kind)
}

func (r *Registry) listen(port uint16) (io.Closer, error) {
	c, err := r.cfg.Listen(port)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, refuse(tunnel.CodePortTaken, "port %d is in use on the server", port)
	case errors.Is(err, syscall.EACCES):
		return nil, refuse(tunnel.CodePortTaken, "the server may not open port %d", port)
	case errors.Is(err, net.ErrClosed):
		return nil, &tunnel.BindError{Code: tunnel.CodeDraining, Message: "the server is shutting down", Retryable: true}
	}
	return nil, &tunnel.BindError{Code: tunnel.CodeInternal, Message: "the server could not open the port", Retryable: true}
}
