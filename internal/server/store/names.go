package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Reservation says which token a name belongs to, also while no agent serves it. A name
// is what endpoint.Name.String makes: http://app.example.com or tcp://:20017, say.
type Reservation struct {
	Name    string    `json:"name"`
	Token   string    `json:"token"` // id
	Created time.Time `json:"created"`
	// Kept: nobody else may bind it. Else the token was the last one to have this domain,
	// and who comes after it shows that the domain is his.
	Kept bool `json:"kept,omitempty"`
}

// ReservedError says that a name is another token's.
type ReservedError struct{ Reservation }

func (e *ReservedError) Error() string { return e.Name + " is reserved by another token" }

func (s *Store) nameTable() table[Reservation] { return table[Reservation]{s, "names/"} }

// Reserve keeps a name for a token, and with it the host's other names (covering). To reserve it once more is no error; what is another
// token's gives a *ReservedError, what another token's agent serves now a *HeldError.
func (s *Store) Reserve(ctx context.Context, name, token string) error {
	want := Reservation{Name: name, Token: token, Created: time.Now().UTC().Truncate(time.Second), Kept: true}
	text, err := encode(want)
	if err != nil {
		return err
	}
	c := Claim{Route: Route{Name: name, Token: token}, Excludes: otherKind(name)}
	for range claimTries {
		seen, err := s.look(ctx, c)
		switch has := seen.reserved; {
		case err != nil:
			return fmt.Errorf("reserve %s: %w", name, err)
		case has.rev != 0 && has.Value.Kept && has.Value.Token != token:
			return &ReservedError{has.Value}
		case has.rev != 0 && has.Value.Kept:
			return nil
		}
		if err := c.barred(seen); err != nil {
			return err
		}
		for _, x := range slices.Concat(seen.members, seen.excluded) {
			if x.Value.Token != token {
				return &HeldError{x.Value}
			}
		}
		rev, err := s.writeReservation(ctx, c, text, seen)
		if err == nil {
			s.names.reach(ctx, rev)
			return nil
		}
		if !errors.Is(err, ErrChanged) {
			return fmt.Errorf("reserve %s: %w", name, err)
		}
	}
	return fmt.Errorf("reserve %s: %w", name, ErrUnavailable)
}

func (s *Store) writeReservation(ctx context.Context, c Claim, text string, seen sight) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := s.client.Txn(ctx).If(s.unchanged(c, seen)...).Then(clientv3.OpPut(s.nameTable().path(c.Name), text)).Commit()
	switch {
	case err != nil:
		return 0, fault(err)
	case !r.Succeeded:
		return 0, ErrChanged
	}
	return r.Header.Revision, nil
}

// Unreserve gives a reserved name up, and else forgets who had its host last. It returns
// ErrNotFound if there is neither.
func (s *Store) Unreserve(ctx context.Context, name string) error {
	rev, err := s.nameTable().drop(ctx, name, 0)
	if domain := domainOf(name); errors.Is(err, ErrNotFound) && domain != "" && domain != name {
		last, gerr := s.nameTable().get(ctx, domain)
		if gerr == nil && !last.Value.Kept {
			rev, err = s.nameTable().drop(ctx, domain, last.rev)
		}
	}
	if err != nil {
		return fmt.Errorf("release name: %w", err)
	}
	s.names.reach(ctx, rev)
	return nil
}

// Reserved returns who has reserved a name, as far as this node knows.
func (s *Store) Reserved(name string) (Reservation, bool) {
	r, ok := s.names.Get(name)
	return r.Value, ok
}

// Reservations returns all reserved names, sorted.
func (s *Store) Reservations() []Reservation {
	var list []Reservation
	for _, r := range s.names.All() {
		list = append(list, r.Value)
	}
	slices.SortFunc(list, func(a, b Reservation) int { return strings.Compare(a.Name, b.Name) })
	return list
}
