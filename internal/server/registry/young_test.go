package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// TestYouth: after a start visitors wait for names that are not known yet, for as long as
// agents need to find back and no longer, and not more of them than may wait.
func TestYouth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Domain: "example.com", Youth: 3 * time.Second, MaxWaiting: 2})
		name := endpoint.Name{Kind: endpoint.HTTP, Host: "app.example.com"}
		found := make(chan error, 1)
		began := time.Now()
		go func() {
			r.AwaitHost(t.Context(), "app.example.com")
			_, err := r.Lookup(t.Context(), to(name))
			found <- err
		}()
		<-time.After(time.Second)
		for _, label := range []string{"other", "app"} {
			spec := endpoint.Spec{Kind: endpoint.HTTP, Name: label, Label: label}
			if _, err := r.Bind(t.Context(), Request{Spec: spec, Owner: Owner{AgentID: "a", SessionID: "s"}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-found; err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		unknown := endpoint.Name{Kind: endpoint.HTTP, Host: "unknown.example.com"}
		waited := make(chan time.Duration, 3)
		for range 3 {
			go func() {
				if _, err := r.Lookup(context.Background(), to(unknown)); !errors.Is(err, ErrNotFound) {
					t.Errorf("unknown: %v", err)
				}
				waited <- time.Since(began)
			}()
		}
		if d := <-waited; d != time.Second {
			t.Errorf("one too many waited until %v", d)
		}
		if a, b := <-waited, <-waited; a != 3*time.Second || b != 3*time.Second {
			t.Errorf("waited until %v and %v", a, b)
		}
		if _, err := r.Lookup(t.Context(), to(unknown)); !errors.Is(err, ErrNotFound) || time.Since(began) != 3*time.Second {
			t.Errorf("afterwards: %v after %v", err, time.Since(began))
		}
		_ = r.Close()
	})
}
