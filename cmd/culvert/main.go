// Command culvert is agent, server and administration of Culvert in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-tunnel/culvert/internal/cli"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals // a second one does not wait for anything
		os.Exit(1)
	}()
	code := cli.Run(ctx, cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv,
	})
	cancel()
	os.Exit(code)
}
