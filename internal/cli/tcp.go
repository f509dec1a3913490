package cli

import (
	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func newTCP(env *Env) *cobra.Command {
	return newEndpoint(env, endpoint.TCP, "tcp UPSTREAM", "Publish a TCP service on a port",
		`  culvert tcp 22
  culvert tcp db.lan:5432 --url tcp://:20432`)
}
