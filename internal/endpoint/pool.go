package endpoint

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Pool says how an endpoint shares its name with others. The zero value: not at all.
type Pool struct {
	Shared  bool    // with the endpoints of the same token that say so too
	Balance Balance // how visitors are spread
	Sticky  Sticky  // whether a visitor stays with the member that he had
	Weight  int     // of this member against the others; 0 is 1
	Check   Check   // by the agent, which keeps it to itself
}

// Balance is a way to spread visitors over a pool.
type Balance string

// The ways to spread visitors.
const (
	LeastBusy  Balance = ""            // to the member that serves the fewest for its weight
	RoundRobin Balance = "round-robin" // to one after the other
)

// Sticky is a way to know a visitor again.
type Sticky string

// The ways to know visitors again.
const (
	NotSticky       Sticky = ""
	StickyByCookie  Sticky = "cookie"  // HTTP
	StickyByAddress Sticky = "address" // the visitor's
)

// Check is how an agent finds out whether its upstream is well. The zero value: only by
// what visitors meet.
type Check struct {
	Path    string        // HTTP: ask for this, and take 2xx and 3xx for an answer
	Connect bool          // connect to it
	Every   time.Duration // 0: DefaultCheckEvery
	Timeout time.Duration // 0: DefaultCheckTimeout
}

// Asked reports whether there is anything to check.
func (c Check) Asked() bool { return c.Path != "" || c.Connect }

// Defaults and bounds of checks and weights.
const (
	DefaultCheckEvery   = 10 * time.Second
	DefaultCheckTimeout = 5 * time.Second
	MaxWeight           = 100
)

func (p Pool) validate(kind Kind) error {
	switch {
	case p == Pool{}:
		return nil
	case !p.Shared:
		return fmt.Errorf("%w: balance, stickiness, weight and checks are for pools", ErrBadSpec)
	case p.Weight < 0 || p.Weight > MaxWeight:
		return fmt.Errorf("%w: a weight is a number from 1 to %d", ErrBadSpec, MaxWeight)
	case p.Balance != LeastBusy && p.Balance != RoundRobin:
		return fmt.Errorf("%w: unknown balance %q", ErrBadSpec, p.Balance)
	case p.Sticky != NotSticky && p.Sticky != StickyByCookie && p.Sticky != StickyByAddress:
		return fmt.Errorf("%w: unknown stickiness %q", ErrBadSpec, p.Sticky)
	case p.Sticky == StickyByCookie && kind != HTTP:
		return fmt.Errorf("%w: only visitors of http endpoints have cookies", ErrBadSpec)
	}
	return p.Check.validate(kind)
}

func (c Check) validate(kind Kind) error {
	switch {
	case c == Check{}:
		return nil
	case !c.Asked():
		return fmt.Errorf("%w: a check is either of a path or of connecting", ErrBadSpec)
	case c.Path != "" && c.Connect:
		return fmt.Errorf("%w: a check of a path connects anyway", ErrBadSpec)
	case kind == UDP:
		return fmt.Errorf("%w: a udp upstream can't be checked", ErrBadSpec)
	case c.Path != "" && (c.Path[0] != '/' || len(c.Path) > 1024 || strings.ContainsFunc(c.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })):
		return fmt.Errorf("%w: a check's path is written like /healthz", ErrBadSpec)
	case c.Every != 0 && c.Every < time.Second, c.Timeout < 0, c.Every > maxTime, c.Timeout > maxTime:
		return fmt.Errorf("%w: checks are at least a second apart", ErrBadSpec)
	}
	return nil
}

// WeightOf is a member's weight.
func (p Pool) WeightOf() int { return max(p.Weight, 1) }

// Terms is what the members of a pool must agree on, as a text to compare: all that decides
// what becomes of a visitor and of what he sends, so that neither depends on which member
// he gets. It is empty for an endpoint that does not share its name.
func (s Spec) Terms() string {
	if !s.Pool.Shared {
		return ""
	}
	// The rest is a member's own: what it calls itself and what it can carry. The name is
	// compared as such.
	s.Name, s.Label, s.Host, s.Path, s.Port = "", "", "", "", 0
	s.Limits = Limits{}
	s.Pool.Weight, s.Pool.Check = 0, Check{}
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // of strings, numbers and bools
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
