package cli

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/agent"
	"github.com/culvert-tunnel/culvert/internal/agent/api"
	"github.com/culvert-tunnel/culvert/internal/agent/inspect"
	"github.com/culvert-tunnel/culvert/internal/version"
)

// inspectFlags say whether and how far requests are inspected.
type inspectFlags struct {
	off          bool
	memory, body size
}

func (f *inspectFlags) add(cmd *cobra.Command) {
	f.memory, f.body = inspect.DefaultMemory, inspect.DefaultBody
	fs := cmd.Flags()
	fs.BoolVar(&f.off, "no-inspect", false, "don't inspect requests of http endpoints")
	fs.Var(&f.memory, "inspect-memory", "memory for inspected requests; the oldest make room for new ones")
	fs.Var(&f.body, "inspect-body", "how much of a body the inspector keeps")
}

// localFlags say what of an agent there is on its own machine.
type localFlags struct {
	api     string
	inspect inspectFlags
	ready   func(url string) // told where the page is; may be nil
	screen  *screenFlags     // nil: none is shown
}

// started is when an agent has used what only starting takes.
const started = 5 * time.Second

// runAgent runs an agent, and beside it the local API, the inspector and what else is
// to run.
func runAgent(ctx context.Context, cfg agent.Config, flags localFlags, beside ...companion) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel(nil)
	local := api.Config{Version: version.String(), Logger: cfg.Logger}
	var l net.Listener
	if flags.api != "" && flags.api != "off" {
		var err error
		if l, err = api.Listen(ctx, flags.api); err != nil {
			return usagef("--api %s: %w", flags.api, err)
		}
		if f := flags.inspect; !f.off {
			local.Metrics = api.NewMetrics()
			local.Inspector = inspect.New(inspect.Config{Memory: int64(f.memory), Body: int64(f.body), Observe: local.Metrics.Observe})
			cfg.Watch, cfg.Unreached = local.Inspector.Watch, local.Inspector.Unreached
		}
	}
	local.Agent = agent.New(cfg)
	page := ""
	if l != nil {
		page = "http://" + l.Addr().String() + "/"
		cfg.Logger.Info("local API ready", "url", page, "inspecting", local.Inspector != nil)
		if flags.ready != nil {
			flags.ready(page)
		}
		tasks.Go(func() {
			if err := api.New(local).Serve(ctx, l); err != nil {
				cfg.Logger.Error("local API ended", "error", err)
			}
		})
	}
	if local.Inspector != nil {
		tasks.Go(func() { _ = local.Inspector.Run(ctx) }) // it ends with ctx alone
	}
	for _, run := range beside {
		tasks.Go(func() {
			if err := run(ctx, local.Agent, cfg.Logger); err != nil {
				cancel(err)
			}
		})
	}
	settling := time.AfterFunc(started, func() {
		if err := settle(); err != nil {
			cfg.Logger.Debug("memory not given back", "error", err)
		}
	})
	defer settling.Stop()
	if flags.screen == nil {
		if err := local.Agent.Run(ctx); err != nil {
			return err
		}
		return cause(ctx)
	}
	return flags.screen.around(ctx, cancel, local, page)
}
