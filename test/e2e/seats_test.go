package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// TestTwoServersAtOnce: an agent that was given two servers of a cluster serves by both. The
// death of one is noticed by nobody but those whose visit went through it, and the agent has
// a session there again when it is back.
func TestTwoServersAtOnce(t *testing.T) {
	nodes := startCluster(t)
	hold := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "here")
		if r.URL.Path == "/long" {
			_ = http.NewResponseController(w).Flush()
			<-hold
			_, _ = io.WriteString(w, " and there")
		}
	}))
	t.Cleanup(up.Close)
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	agent, _ := nodes[0].publish("http", up.Listener.Addr().String(), "--name", "app", "--server", nodes[0].https, "--server", nodes[1].https)
	online := func(times int) bool { return agent.count(msg("endpoint online")) >= times }
	eventually(t, "it serves by both", func() bool { return online(2) })

	// visit is a visit at one of the servers.
	visit := func(n int, path, want string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, port, _ := net.SplitHostPort(nodes[n].https)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://app.localhost:"+port+path, nil)
		check(t, err)
		client := nodes[n].visitor(false)
		defer client.CloseIdleConnections()
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != want {
			return fmt.Errorf("%s %q %w", res.Status, b, err)
		}
		return nil
	}
	for i, dying := range []int{0, 1} {
		other := 1 - dying
		long := make(chan error, 1)
		go func() { long <- visit(other, "/long", "here and there") }()
		// Visitors come to the one that stays all the time.
		var done atomic.Bool
		var visits sync.WaitGroup
		for range 4 {
			visits.Go(func() {
				for !done.Load() {
					if err := visit(other, "/", "here"); err != nil {
						t.Errorf("while server %d is gone: %v", dying, err)
						return
					}
				}
			})
		}
		nodes[dying].kill()
		// And to the third, which knew both ways.
		for range 20 {
			if err := visit(2, "/", "here"); err != nil {
				t.Errorf("at the third server, while server %d is gone: %v", dying, err)
			}
		}
		if i == 0 {
			select {
			case err := <-long:
				t.Errorf("a visit through the server that stays ended: %v", err)
			default:
			}
			release()
		}
		if err := <-long; err != nil {
			t.Errorf("a visit through the server that stays: %v", err)
		}
		nodes[dying].restart()
		eventually(t, "it serves by both again", func() bool { return online(3 + i) })
		done.Store(true)
		visits.Wait()
	}
}
