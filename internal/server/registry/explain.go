package registry

import (
	"errors"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// explain turns the store's answer into one for the agent. It tells what kind of conflict
// there is, not with whom.
func (r *Registry) explain(err error, name endpoint.Name) error {
	r.mu.RLock()
	e := r.mu.entries[name]
	waits := e != nil && e.state == held
	r.mu.RUnlock()
	return explain(err, name, waits)
}

// explain is Registry.explain; waits says that the name waits for its agent, or is free soon.
func explain(err error, name endpoint.Name, waits bool) *tunnel.BindError {
	var proof *store.ProofError
	var held *store.HeldError
	var pool *store.PoolError
	var reserved *store.ReservedError
	var told *tunnel.BindError
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, store.ErrSuperseded):
		return refuse(tunnel.CodeSuperseded, "%s is served by a newer run of this agent", name)
	case errors.As(err, &reserved):
		return refuse(tunnel.CodeNameReserved, "%s is reserved for another token: ask for another name", name)
	case errors.As(err, &proof):
		return refuse(tunnel.CodeDomainUnproven, "%s was another token's before: ask the server's operator to release it", name)
	case errors.Is(err, store.ErrPoolFull):
		return refuse(tunnel.CodePoolFull, "%s has %d agents already, as many as may share a name", name, store.MaxMembers)
	case errors.As(err, &pool):
		return otherwiseShared(pool, name, waits)
	case errors.As(err, &held) && held.Holder.Name != "" && held.Holder.Name != name.String():
		return refuse(tunnel.CodeNameTaken, "%s is taken by another kind of endpoint", name.Host)
	case errors.As(err, &held):
		return taken(name, waits)
	case errors.Is(err, store.ErrUnavailable):
		return &tunnel.BindError{Code: tunnel.CodeStoreUnavailable, Message: "the cluster's state is out of reach for the moment, and with it new names", Retryable: true}
	}
	return &tunnel.BindError{Code: tunnel.CodeInternal, Message: "the server could not claim the name", Retryable: true}
}

// taken says that another agent has a name.
func taken(name endpoint.Name, waits bool) *tunnel.BindError {
	err := refuse(tunnel.CodeNameTaken, "%s is taken by another agent", name)
	if name.Port != 0 {
		err = refuse(tunnel.CodePortTaken, "port %d is taken by another agent", name.Port)
	}
	err.Retryable = waits
	return err
}

// otherwiseShared says that an agent of the same token has the name in another way.
func otherwiseShared(pool *store.PoolError, name endpoint.Name, waits bool) *tunnel.BindError {
	err := taken(name, waits)
	switch {
	case pool.Asked && pool.Member.Pool != "":
		// Those that run may be on their way to the new settings, one after the other.
		err = &tunnel.BindError{Code: tunnel.CodePoolMismatch, Message: name.String() + " is a pool with other settings: what decides about visitors must be the same for all its members", Retryable: true}
	case pool.Asked:
		err.Message = name.String() + " is another agent's of this token alone: start that one with --pool too"
	default:
		err.Message = name.String() + " is a pool of other agents of this token: join it with --pool"
	}
	return err
}
