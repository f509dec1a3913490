package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server"
)

// accessFlags are those of the log of requests.
type accessFlags struct {
	format, file string
	query        bool
}

func (f *accessFlags) add(cmd *cobra.Command) {
	addChoice(cmd, &f.format, "access-log", "", "log of visitors' requests: off, attributes as in the server's log, or combined as of Apache and nginx", "off", "attributes", "combined")
	cmd.Flags().StringVar(&f.file, "access-log-file", "", "file for it, opened anew on SIGHUP (default: the server's log; stdout for combined)")
	cmd.Flags().BoolVar(&f.query, "access-log-query", false, "log queries of URLs too, which may hold secrets")
}

// open sets the log up in cfg, until the returned func is called.
func (f *accessFlags) open(ctx context.Context, env *Env, cfg *server.Config) (closeLog func(), err error) {
	closeLog = func() {}
	if f.format == "off" {
		if f.file != "" {
			return nil, usagef("--access-log-file needs --access-log attributes or combined")
		}
		return closeLog, nil
	}
	cfg.AccessQuery = f.query
	to := env.Stdout
	if f.file != "" {
		file := &logFile{path: f.file}
		if err := file.reopen(); err != nil {
			return nil, usagef("--access-log-file: %w", err)
		}
		stop := file.reopenOnHangup(ctx, cfg.Logger)
		closeLog = func() {
			stop()
			_ = file.Close()
		}
		to = file
	}
	switch {
	case f.format == "combined":
		cfg.AccessLines = to
	case f.file != "":
		cfg.AccessLog = slog.New(slog.NewJSONHandler(to, nil))
	default:
		cfg.AccessLog = cfg.Logger
	}
	return closeLog, nil
}

// logFile is a file that others may move away, to be opened anew.
type logFile struct {
	path string
	mu   struct {
		sync.Mutex
		file *os.File
	}
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.file.Write(p)
}

// reopen goes on with what is at the path now. When that can't be opened, it stays with
// the old one.
func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.file != nil {
		_ = l.mu.file.Close()
	}
	l.mu.file = f
	return nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.file.Close()
}

// reopenOnHangup reopens on each SIGHUP, until stop is called.
func (l *logFile) reopenOnHangup(ctx context.Context, log *slog.Logger) (stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-hangup:
				if err := l.reopen(); err != nil {
					log.Error("access log not opened anew; it goes on in the old file", "error", err)
				} else {
					log.Info("access log opened anew", "file", l.path)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		cancel()
		<-ended
	}
}
