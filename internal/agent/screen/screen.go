// Package screen is what an agent shows on a terminal: one page that says whether
// visitors reach what, and what they ask for. It shows what packages agent and inspect
// know, asks them now and then, and keeps nothing itself but the newest warnings. It
// stands beside the walk: no visitor's byte passes through it, and none waits for it.
//
// What it shows was in part written by strangers. Everything passes clean or cleanURL
// before it is shown, so that nothing but this package speaks to the terminal.
package screen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
)

// Config of Run. Status, Notices, Stop and Abort must be set.
type Config struct {
	Status    func() agent.Status
	Inspector *inspect.Inspector // nil: requests are not shown
	Page      string             // URL of the inspector, or of the local API; empty: none
	Version   string
	Notices   *Notices

	Stop  func() // begins the drain, at the first Ctrl-C
	Abort func() // ends it, at the next one

	In      io.Reader // a terminal
	Out     io.Writer // likewise
	Environ []string
}

// Screen is one that can be shown. Make one with New.
type Screen struct {
	cfg     Config
	program *tea.Program
	done    chan struct{}
	aborted atomic.Bool
}

// framesPerSecond bounds how often the terminal is written to.
const framesPerSecond = 12

// New makes a screen that is not shown yet.
func New(cfg Config) *Screen {
	s := &Screen{cfg: cfg, done: make(chan struct{})}
	cfg.Abort = func() {
		s.aborted.Store(true)
		s.cfg.Abort()
	}
	// The process has its own handler of signals. Panics are caught: a screen that is
	// broken must not be the visitors' fault.
	s.program = tea.NewProgram(newModel(cfg), tea.WithInput(cfg.In), tea.WithOutput(cfg.Out),
		tea.WithEnvironment(cfg.Environ), tea.WithFPS(framesPerSecond), tea.WithoutSignalHandler())
	return s
}

// Run shows the screen until ctx ends, and leaves the terminal as it was. While it
// runs, cfg.Notices keeps log lines off the terminal.
func (s *Screen) Run(ctx context.Context) error {
	defer close(s.done)
	defer s.cfg.Notices.release()
	stop := context.AfterFunc(ctx, s.program.Quit)
	defer stop()
	if _, err := s.program.Run(); err != nil && (errors.Is(err, tea.ErrProgramPanic) || !errors.Is(err, tea.ErrProgramKilled)) {
		return fmt.Errorf("status screen: %w", err)
	}
	return nil
}

// Aborted reports whether the drain was ended by a key.
func (s *Screen) Aborted() bool { return s.aborted.Load() }

// Restore gives the terminal back at once, for a process that is about to end.
func (s *Screen) Restore() {
	s.program.Kill()
	select {
	case <-s.done:
	case <-time.After(time.Second):
	}
}

// Fits reports whether a terminal of this kind can show the screen.
func Fits(kind string) bool { return kind != "" && kind != "dumb" }
