package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/config"
)

// live keeps a running agent in step with its configuration file.
type live struct {
	env   *Env
	path  string
	names []string // of the command line; none: all
	state string   // directory of the socket
	watch *config.Watch
	file  config.Agent // as the agent was started with it
	asked chan chan<- outcome
}

// reloaded is what a reload did.
type reloaded struct {
	agent.Change
	NeedsRestart []string `json:"needs_restart,omitempty"` // keys whose change has no effect yet
}

type outcome struct {
	done reloaded
	err  error
}

func newLive(env *Env, path string, names []string) *live {
	return &live{env: env, path: path, names: names, watch: config.NewWatch(path), asked: make(chan chan<- outcome)}
}

// load reads the file for the start.
func (l *live) load() ([]agent.Endpoint, config.Settings, error) {
	file, endpoints, settings, err := loadEndpoints(l.env, l.path, l.names)
	l.file = file
	return endpoints, settings, err
}

// errHungUp says that the terminal the agent was started on is gone.
var errHungUp = errors.New("the terminal was closed")

// run applies the file whenever it is saved or somebody asks for it.
func (l *live) run(ctx context.Context, a *agent.Agent, log *slog.Logger) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if socket, err := l.listen(ctx); err != nil {
		log.Warn("culvert reload does not reach this agent: save the file or send SIGHUP instead", "error", err)
	} else {
		tasks.Go(func() { l.serve(ctx, socket, log) })
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	onTerminal := l.onTerminal()
	ticker := time.NewTicker(config.WatchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if l.watch.Changed() {
				l.apply(a, log)
			}
		case <-hangup:
			if onTerminal && !l.onTerminal() {
				return errHungUp
			}
			l.apply(a, log)
		case answer := <-l.asked:
			answer <- l.apply(a, log)
		}
	}
}

func (l *live) onTerminal() bool {
	f, ok := l.env.Stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// apply makes the agent serve what the file says now. A file with a fault changes
// nothing.
func (l *live) apply(a *agent.Agent, log *slog.Logger) outcome {
	file, endpoints, _, err := loadEndpoints(l.env, l.path, l.names)
	if err != nil {
		log.Error("configuration not applied: all goes on as before", "error", err)
		return outcome{err: err}
	}
	done := reloaded{Change: a.Apply(endpoints), NeedsRestart: config.Differences(l.file, file)}
	log.Info("configuration applied", "file", l.path, "added", done.Added, "removed", done.Removed,
		"rebound", done.Rebound, "moved", done.Moved, "kept", len(done.Kept))
	if len(done.NeedsRestart) > 0 {
		log.Warn("some settings changed that need a restart of culvert start", "keys", done.NeedsRestart)
	}
	return outcome{done: done}
}

// socketPath is where the agent that serves a configuration file listens for its
// user. The state directory is the user's alone, and so is the right to ask.
func socketPath(state, file string) (string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(state, hex.EncodeToString(sum[:6])+".sock"), nil
}

// listen opens the socket. One that is there is that of a run that ended without a
// word, or that this one takes over as it takes its names.
func (l *live) listen(ctx context.Context) (*net.UnixListener, error) {
	path, err := socketPath(l.state, l.path)
	if err != nil {
		return nil, err
	}
	// The socket gets its mode before its name: in between nobody else may come in.
	beside := fmt.Sprintf("%s.%d", path, os.Getpid())
	var lc net.ListenConfig
	got, err := lc.Listen(ctx, "unix", beside)
	if err != nil {
		return nil, err
	}
	s := got.(*net.UnixListener)
	s.SetUnlinkOnClose(false) // by its name there may be that of a later run
	if err = os.Chmod(beside, 0o600); err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		_ = s.Close()
		_ = os.Remove(beside)
		return nil, err
	}
	return s, nil
}

// serve answers culvert reload until ctx ends.
func (l *live) serve(ctx context.Context, s *net.UnixListener, log *slog.Logger) {
	path, _ := socketPath(l.state, l.path)
	mine, _ := os.Lstat(path)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		answer := make(chan outcome, 1)
		select {
		case l.asked <- answer:
		case <-ctx.Done():
			return
		case <-r.Context().Done():
			return
		}
		o := <-answer
		w.Header().Set("Content-Type", "application/json")
		if o.err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": o.err.Error()})
			return
		}
		_ = json.NewEncoder(w).Encode(o.done)
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(mine, now) {
			_ = os.Remove(path)
		}
		_ = srv.Close()
	})
	defer stop()
	if err := srv.Serve(s); !errors.Is(err, http.ErrServerClosed) {
		log.Error("culvert reload ended", "error", err)
	}
}
