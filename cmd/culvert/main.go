// Command culvert is agent, server and administration of Culvert in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/cli"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	var beforeExit atomic.Pointer[func()]
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals // a second one does not wait for anything
		if f := beforeExit.Load(); f != nil && *f != nil {
			(*f)()
		}
		os.Exit(1)
	}()
	code := cli.Run(ctx, cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv,
		BeforeExit: func(f func()) { beforeExit.Store(&f) },
	})
	cancel()
	os.Exit(code)
}
