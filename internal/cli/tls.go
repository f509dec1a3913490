package cli

import (
	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func newTLS(env *Env) *cobra.Command {
	return newEndpoint(env, endpoint.TLS, "tls UPSTREAM", "Publish a TLS service under a server name, without reading it",
		`  culvert tls 8443 --name secure
  culvert tls 8443 --url tls://db.example.com`)
}
