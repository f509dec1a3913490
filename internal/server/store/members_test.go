package store

import (
	"errors"
	"strconv"
	"testing"
	"time"
)

// TestJudge: who may have a name beside whom, and who yields to whom.
func TestJudge(t *testing.T) {
	now := time.Now()
	has := Route{Name: "http://a", Agent: "a", Generation: 2, Token: "t", Part: "p", Since: now}
	pool := has
	pool.Pool = "terms"
	with := func(r Route, change func(*Route)) Route {
		r.Since = now.Add(time.Second)
		change(&r)
		return r
	}
	held, otherPool := new(HeldError), new(PoolError)
	for name, c := range map[string]struct {
		has, asks Route
		want      any // an error, or a Fate
	}{
		"another agent":                {has, with(has, func(r *Route) { r.Agent = "b" }), &PoolError{}},
		"another token":                {pool, with(pool, func(r *Route) { r.Agent, r.Token = "b", "u" }), held},
		"the id of another's agent":    {has, with(has, func(r *Route) { r.Generation, r.Token = 3, "u" }), held},
		"the same run":                 {has, with(has, func(*Route) {}), Yields},
		"another part, but no pool":    {has, with(has, func(r *Route) { r.Part = "q" }), Yields},
		"another part of the pool":     {pool, with(pool, func(r *Route) { r.Part = "q" }), Shares},
		"another seat":                 {has, with(has, func(r *Route) { r.Seat = 1 }), Shares},
		"a newer run in another seat":  {has, with(has, func(r *Route) { r.Generation, r.Seat = 3, 1 }), Yields},
		"an older run in another seat": {has, with(has, func(r *Route) { r.Generation, r.Seat = 1, 1 }), ErrSuperseded},
		"another agent of the pool":    {pool, with(pool, func(r *Route) { r.Agent = "b" }), Shares},
		"other terms":                  {pool, with(pool, func(r *Route) { r.Agent, r.Pool = "b", "others" }), otherPool},
		"alone where there is a pool":  {pool, with(pool, func(r *Route) { r.Agent, r.Pool = "b", "" }), otherPool},
		"a pool where one is alone":    {has, with(has, func(r *Route) { r.Agent, r.Pool = "b", "terms" }), otherPool},
	} {
		if name == "another agent" { // of another token, as it is with most
			c.asks.Token, c.want = "u", held
		}
		route, ghosts, err := Claim{Route: c.asks}.judge(sight{members: []Record[Route]{{Key: c.has.Key(), Value: c.has}}})
		switch want := c.want.(type) {
		case Fate:
			yields := len(ghosts) == 1 || c.has.Key() == c.asks.Key()
			if err != nil || yields != (want == Yields) || route.Since.Equal(now) != (want == Yields) {
				t.Errorf("%s: %v, since %v, %v", name, ghosts, route.Since, err)
			}
		case *HeldError:
			if !errors.As(err, &want) {
				t.Errorf("%s: %v", name, err)
			}
		case *PoolError:
			if !errors.As(err, &want) || want.Asked != (c.asks.Pool != "") {
				t.Errorf("%s: %v", name, err)
			}
		case error:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	var full sight
	for i := range MaxMembers {
		m := with(pool, func(r *Route) { r.Agent = "agent " + strconv.Itoa(i) })
		full.members = append(full.members, Record[Route]{Key: m.Key(), Value: m})
	}
	if _, _, err := (Claim{Route: pool}).judge(full); !errors.Is(err, ErrPoolFull) {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := (Claim{Route: full.members[7].Value}).judge(full); err != nil {
		t.Errorf("a member again: %v", err)
	}
}
