package store

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// A name has one member or several: the agents of a pool, and the sessions that one run of
// an agent has at several nodes. Each has a key of its own below the name, on the lease of
// its own node, so that members come and go without a word to each other. That all of them
// may have the name at once is judged when one comes, in the transaction that writes it.

// MaxMembers bounds what is read to judge a claim, and what nodes choose from.
const MaxMembers = 256

// maxGhosts bounds what one transaction removes. What is left over of an earlier run yields
// to later claims, or goes with its node's word.
const maxGhosts = 64

// membersOf is what the keys of a name's members begin with. No name has a number sign.
func membersOf(name string) string { return name + "#" }

// NameOf is the name that a member's key belongs to.
func NameOf(key string) string {
	name, _, _ := strings.Cut(key, "#")
	return name
}

// Member tells a route from the others of its name. It is the same for an agent's next run,
// and is not to be reversed to an agent's id.
func (r Route) Member() string {
	sum := sha256.Sum256([]byte(r.Agent + "\x00" + strconv.FormatUint(uint64(r.Seat), 10) + "\x00" + r.Part))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// Key is where a route stands in its table.
func (r Route) Key() string { return membersOf(r.Name) + r.Member() }

// HeldError says that somebody else has the name.
type HeldError struct{ Holder Route }

func (e *HeldError) Error() string { return e.Holder.Name + " is held by another agent" }

// PoolError says that the name is a pool of the same token, whose members agree on something
// else, or that only one of the two asks for a pool.
type PoolError struct {
	Member Route
	Asked  bool // the claim was of a pool
}

func (e *PoolError) Error() string { return e.Member.Name + " is shared in another way" }

// Errors of Claim.
var (
	ErrSuperseded = errors.New("a newer run of the same agent has the name")
	ErrPoolFull   = errors.New("the pool has as many members as there may be")
)

// Fate is what becomes of a route when another one is to have its name.
type Fate uint8

// The fates.
const (
	Stands Fate = iota // the other may not have the name
	Shares             // both have it
	Yields             // the other takes its place
)

// Meets says what becomes of has, a route of the same name, when r comes; for Stands with
// the reason.
func (r Route) Meets(has Route) (Fate, error) {
	own, pooled := r.sameAgent(has), r.Pool != "" && has.Pool != ""
	switch {
	case own && has.Generation > r.Generation:
		return Stands, ErrSuperseded
	case own && has.Generation < r.Generation:
		return Yields, nil
	case own && (has.Seat != r.Seat || pooled && has.Part != r.Part):
		return Shares, nil
	case own:
		return Yields, nil
	case pooled && has.Token == r.Token && has.Pool == r.Pool:
		return Shares, nil
	case has.Token == r.Token && (has.Pool != "" || r.Pool != ""):
		return Stands, &PoolError{Member: has, Asked: r.Pool != ""}
	}
	return Stands, &HeldError{has}
}

// sameAgent reports whether both are one agent's. What its id is, an agent says itself, so
// that counts among those of one token alone.
func (r Route) sameAgent(other Route) bool { return r.Agent == other.Agent && r.Token == other.Token }

// judge says whether a claim is good given what stands in the store, what is to be written
// then, and the keys of those that yield to it.
func (c Claim) judge(seen sight) (route Route, ghosts []string, err error) {
	route = c.Route
	if err := c.barred(seen); err != nil {
		return route, nil, err
	}
	for _, x := range seen.excluded {
		if !c.outlives(x.Value) {
			return route, nil, &HeldError{x.Value}
		}
		ghosts = append(ghosts, x.Key)
	}
	stay := 0
	for _, m := range seen.members {
		has := m.Value
		fate, err := c.Meets(has)
		switch {
		case fate == Stands && (c.Free != nil && c.Free(has) || c.Older && c.Since.Before(has.Since) && !errors.Is(err, ErrSuperseded)):
			fate = Yields
		case fate == Stands:
			return route, nil, err
		case fate == Yields && has.Since.Before(route.Since):
			route.Since = has.Since // the agent's own
		}
		if m.Key == route.Key() {
			continue
		}
		if stay++; fate == Yields && len(ghosts) < maxGhosts {
			ghosts = append(ghosts, m.Key)
			stay--
		}
	}
	if stay >= MaxMembers {
		return route, nil, ErrPoolFull
	}
	return route, ghosts, nil
}

// outlives reports whether a route of another name that c leaves no room for is what an
// earlier session of the same agent left.
func (c Claim) outlives(has Route) bool {
	return c.sameAgent(has) && has.Session != c.Session &&
		(has.Generation < c.Generation || has.Generation == c.Generation && has.Seat == c.Seat)
}
