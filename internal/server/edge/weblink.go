package edge

import (
	"context"
	"net/http"

	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/server/edge/http1"
)

// asksForLink reports whether the request is that of an agent who comes by WebSocket. It may
// be for any host, as what stands in front of the node has names of its own, and come in
// the clear: a link's own TLS is inside.
func (v *visit) asksForLink() bool {
	return string(v.req.Target) == link.WebSocketPath && string(v.req.Method) == http.MethodGet &&
		http1.HasToken(v.req.Upgrade, "websocket") && http1.HasToken(v.req.Get("sec-websocket-protocol"), link.WebSocketProtocol)
}

// becomeLink answers it. The link begins when the exchange is over: it is no visit.
func (v *visit) becomeLink(ctx context.Context) {
	v.handle(ctx, func(w http.ResponseWriter, r *http.Request) {
		v.link, v.x.err = link.AcceptWebSocket(w, r)
	})
}
