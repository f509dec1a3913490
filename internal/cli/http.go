package cli

import (
	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

func newHTTP(env *Env) *cobra.Command {
	return newEndpoint(env, endpoint.HTTP, "http UPSTREAM", "Publish an HTTP service under a host name",
		`  culvert http 3000
  culvert http 3000 --name app
  culvert http https://192.168.1.10:8443 --url https://app.example.com --upstream-ca ca.pem`)
}
