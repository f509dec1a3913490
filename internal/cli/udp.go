package cli

import (
	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func newUDP(env *Env) *cobra.Command {
	return newEndpoint(env, endpoint.UDP, "udp UPSTREAM", "Publish a UDP service on a port",
		`  culvert udp 53
  culvert udp game.lan:27015 --url udp://:20015 --idle-timeout 5m`)
}
