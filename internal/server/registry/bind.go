package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/limit"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Request asks for a name.
type Request struct {
	Spec  endpoint.Spec // validated
	Owner Owner
	Token string // id of the owner's
	// MaxEndpoints bounds what all agents with the token have together; 0: nothing does.
	MaxEndpoints int
	// Allow judges whether the owner may bind a name; nil allows all.
	Allow func(endpoint.Name) bool
	Open  OpenFunc
	// Away, if set, reports whether the agent's links have lost their connections.
	Away func() bool
	// Lost is told when another session takes the name over. It is called without
	// locks held, must not block, and may be called before Bind returns to the
	// caller that is being overtaken.
	Lost func(*Route, *tunnel.BindError)
}

// Bind gives the asked name to the owner. The error is a *tunnel.BindError.
func (r *Registry) Bind(ctx context.Context, req Request) (*Route, error) {
	if req.Spec.Kind.ByPort() {
		return r.bindPort(ctx, req)
	}
	return r.bindHost(ctx, req)
}

func refuse(code tunnel.Code, format string, args ...any) *tunnel.BindError {
	return &tunnel.BindError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// randomTries is how many random names are tried before giving up. They are drawn
// from more than a million, so even one clash is rare.
const randomTries = 20

func (r *Registry) bindHost(ctx context.Context, req Request) (*Route, error) {
	s := req.Spec
	below := func(label string) endpoint.Name {
		return endpoint.Name{Kind: s.Kind, Host: label + "." + r.cfg.Domain}
	}
	switch {
	case s.Host != "":
		if !strings.Contains(s.Host, ".") && s.Host != r.cfg.Domain {
			return nil, refuse(tunnel.CodeNameInvalid, "%q is no full host name: write it with its domain, or use --name for a name below %s", s.Host, r.cfg.Domain)
		}
		return r.claim(ctx, req, endpoint.Name{Kind: s.Kind, Host: s.Host, Path: s.Path})
	case s.Label != "":
		return r.claim(ctx, req, below(s.Label))
	}
	for try := range randomTries {
		name := below(randomLabel(req.Owner.AgentID, s, try))
		if req.Allow != nil && !req.Allow(name) {
			return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind a random name: ask for one it allows with --name or --url")
		}
		route, err := r.claim(ctx, req, name)
		if err == nil || !isTaken(err) {
			return route, err
		}
	}
	return nil, refuse(tunnel.CodeNameTaken, "no random name is free: ask for one with --name")
}

func isTaken(err error) bool {
	var b *tunnel.BindError
	return errors.As(err, &b) && (b.Code == tunnel.CodeNameTaken || b.Code == tunnel.CodePortTaken || b.Code == tunnel.CodeNameReserved || b.Code == tunnel.CodeNotAllowed)
}

func isDenied(err error) bool {
	var b *tunnel.BindError
	return errors.As(err, &b) && b.Code == tunnel.CodeNotAllowed
}

func (r *Registry) bindPort(ctx context.Context, req Request) (*Route, error) {
	spec := req.Spec
	ports := r.cfg.TCPPorts
	if spec.Kind == endpoint.UDP {
		ports = r.cfg.UDPPorts
	}
	if r.cfg.Listen == nil || ports.Size() == 0 {
		return nil, refuse(tunnel.CodeKindUnsupported, "this server has no ports for %s endpoints: start it with --%s-ports", spec.Kind, spec.Kind)
	}
	n := max(spec.Ports, 1)
	if spec.Port != 0 {
		if !ports.Contains(spec.Port) || int(spec.Port)+n-1 > int(ports.Last) {
			return nil, refuse(tunnel.CodePortOutsideRange, "%s is outside this server's range %s", portText(spec), ports)
		}
		return r.claim(ctx, req, spec.PortNames()...)
	}
	starts := ports.Size() - n + 1
	if starts < 1 {
		return nil, refuse(tunnel.CodePortOutsideRange, "this server has only the ports %s for %s endpoints", ports, spec.Kind)
	}
	// The first try is the same for the same agent and endpoint; from there on the
	// range is walked once.
	start := int(seed(req.Owner.AgentID, spec, 0) % uint64(starts)) //nolint:gosec // below Size
	allowed := false
	for i := range starts {
		spec.Port = ports.First + uint16((start+i)%starts) //nolint:gosec // below 65536
		req.Spec.Port = spec.Port
		route, err := r.claim(ctx, req, spec.PortNames()...)
		if err == nil || !isTaken(err) {
			return route, err
		}
		allowed = allowed || !isDenied(err)
	}
	if !allowed {
		return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind any of the ports %s", ports)
	}
	if n > 1 {
		return nil, refuse(tunnel.CodePortsExhausted, "no %d consecutive ports of %s are free", n, ports)
	}
	return nil, refuse(tunnel.CodePortsExhausted, "all ports of %s are taken", ports)
}

func portText(s endpoint.Spec) string {
	if s.Ports > 1 {
		return fmt.Sprintf("the range of ports %d-%d", s.Port, int(s.Port)+s.Ports-1)
	}
	return fmt.Sprintf("port %d", s.Port)
}

// claim makes the owner's route the one of all names, or of none and says why not.
func (r *Registry) claim(ctx context.Context, req Request, names ...endpoint.Name) (*Route, error) {
	for _, name := range names {
		if req.Allow != nil && !req.Allow(name) {
			return nil, refuse(tunnel.CodeNotAllowed, "this token may not bind %s", name)
		}
		if name.Host != "" && (name.Host == r.cfg.Domain || name.Host == "*."+r.cfg.Domain) {
			return nil, refuse(tunnel.CodeNameReserved, "%s is the server's own name", name.Host)
		}
	}
	route, err := r.newRoute(req, names)
	if err != nil {
		return nil, refuse(tunnel.CodeInternal, "client CA: %v", err)
	}

	// What this node knows to be in vain needs no claim among all nodes.
	if err := r.refused(route); err != nil {
		return nil, err
	}
	if err := r.secure(ctx, req, route, names); err != nil {
		return nil, err
	}

	r.mu.Lock()
	entries, err := r.takeLocked(route)
	if err != nil {
		r.mu.Unlock()
		r.abandon(route)
		return nil, err
	}
	var overtaken []*Route
	for i, e := range entries {
		if e.route != nil && e.route.member == route.member {
			route.Gate = gateFor(route, e.route)
		}
		var list []*Route
		for _, m := range e.members {
			switch fate, _ := route.record.Meets(m.record); {
			case fate == store.Shares:
				list = append(list, m)
			case !slices.Contains(overtaken, m):
				overtaken = append(overtaken, m)
				route.Gate = gateFor(route, m)
			}
		}
		if e.state == held {
			r.abandon(e.route) // nobody waits for it any more; what its own heir has stays
		}
		r.addLocked(names[i], e)
		r.setLocked(names[i], e, live, append(list, route)...)
	}
	// What an overtaken route had besides is nobody's now.
	r.leaveLocked(released, overtaken)
	r.enteredLocked(route)
	r.mu.Unlock()
	r.youth.announce()

	for _, o := range overtaken {
		r.abandon(o)
		if o.lost != nil {
			o.lost(o, refuse(tunnel.CodeSuperseded, "%s is served by a newer run of this agent now", o.Name))
		}
	}
	return route, nil
}

func (r *Registry) newRoute(req Request, names []endpoint.Name) (*Route, error) {
	cas, err := clientCAs(req.Spec)
	if err != nil {
		return nil, err // Validate has read them
	}
	route := &Route{
		ID: uuid.NewString(), Name: names[0], Spec: req.Spec, Owner: req.Owner, Gate: limit.New(req.Spec.Limits), ClientCAs: cas,
		names: names, token: req.Token, open: req.Open, away: req.Away, lost: req.Lost,
	}
	route.record = recordOf(req, route.ID)
	route.member = route.record.Member()
	return route, nil
}

// gateFor returns the gate of a new route: the one that was there, if it is the same
// agent with the same limits, since visitors who are in by it still count.
func gateFor(route, before *Route) *limit.Gate {
	if before.Owner.AgentID == route.Owner.AgentID && before.token == route.token && before.Spec.Limits == route.Spec.Limits {
		return before.Gate
	}
	return route.Gate
}

// refused is the reason against one of the names, if there is one already.
func (r *Registry) refused(route *Route) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, name := range route.names {
		if _, err := r.entryForLocked(name, route); err != nil {
			return err
		}
	}
	return nil
}

// takeLocked returns the entries of all names of a route, which it may take, their ports
// open, or the reason against one of them.
func (r *Registry) takeLocked(route *Route) ([]*entry, error) {
	names := route.names
	entries := make([]*entry, len(names))
	for i, name := range names {
		e, err := r.entryForLocked(name, route)
		if err != nil {
			return nil, err
		}
		entries[i] = e
	}
	for i, name := range names {
		e := entries[i]
		if e == nil {
			e = &entry{changed: make(chan struct{})}
		}
		if name.Kind.ByPort() && e.port == nil {
			// Listening is a system call that does not wait, so it may be made under the
			// lock; outside it two claims for one port would have to be told apart.
			port, err := r.listen(name)
			if err != nil {
				for k, opened := range entries[:i] {
					if opened.route == nil && r.mu.entries[names[k]] == nil {
						_ = opened.port.Close()
					}
				}
				return nil, err
			}
			e.port = port
		}
		entries[i] = e
	}
	return entries, nil
}

// entryForLocked returns the entry that a route may take for name, nil if there is none
// yet, or the reason against it. What other nodes have, the store knows better.
func (r *Registry) entryForLocked(name endpoint.Name, route *Route) (*entry, error) {
	if r.mu.closed || r.mu.drained {
		return nil, &tunnel.BindError{Code: tunnel.CodeDraining, Message: "the server is shutting down", Retryable: true}
	}
	e := r.mu.entries[name]
	if e == nil {
		return e, r.otherKindLocked(name, route.Owner)
	}
	here := false
	for _, m := range e.members {
		if m.node != "" {
			continue
		}
		here = true
		switch fate, why := route.record.Meets(m.record); {
		case fate == store.Stands:
			return nil, explain(why, name, false)
		case fate == store.Yields && m.Owner.SessionID == route.Owner.SessionID:
			return nil, refuse(tunnel.CodeNameTaken, "%s is bound by this agent already", name)
		}
	}
	if e.state == held && e.route.node == "" {
		here = true
		if fate, why := route.record.Meets(e.route.record); fate == store.Stands {
			return nil, explain(why, name, true)
		}
	}
	if !here {
		return e, r.otherKindLocked(name, route.Owner)
	}
	return e, nil
}

// otherKindLocked refuses a host that is bound as the other of HTTP and TLS: the
// two share the TLS port.
func (r *Registry) otherKindLocked(name endpoint.Name, owner Owner) error {
	switch name.Kind {
	case endpoint.HTTP:
		return r.stoodForLocked(endpoint.Name{Kind: endpoint.TLS, Host: name.Host}, owner)
	case endpoint.TLS:
		for other := range r.mu.paths[name.Host] {
			if err := r.stoodForLocked(other, owner); err != nil {
				return err
			}
		}
		return r.stoodForLocked(endpoint.Name{Kind: endpoint.HTTP, Host: name.Host}, owner)
	case endpoint.TCP, endpoint.UDP:
	}
	return nil
}

// stoodForLocked refuses if other is somebody's, as far as owner is concerned.
func (r *Registry) stoodForLocked(other endpoint.Name, owner Owner) error {
	o := r.mu.entries[other]
	if o == nil || o.state == released || o.state == offline || o.state == live && !slices.ContainsFunc(o.members, func(m *Route) bool { return m.node == "" }) {
		return nil
	}
	if o.state == held && o.route.Owner.AgentID == owner.AgentID {
		return nil
	}
	return refuse(tunnel.CodeNameTaken, "%s is taken by a %s endpoint", other.Host, other.Kind)
}

func (r *Registry) listen(name endpoint.Name) (io.Closer, error) {
	port := name.Port
	c, err := r.cfg.Listen(name)
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
