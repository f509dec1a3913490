package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Member is a server's part in keeping the cluster's state.
type Member = store.Member

func (cfg Config) addMembers(api huma.API) {
	huma.Register(api, operation("list-members", http.MethodGet, "/members", "List the servers that keep the cluster's state, and those that use them", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*body[[]Member], error) {
			list, err := cfg.Store.Members(ctx)
			if err != nil {
				return nil, explain(err)
			}
			return &body[[]Member]{list}, nil
		})
	huma.Register(api, operation("remove-member", http.MethodDelete, "/members/{member}", "Remove a server from those that keep the cluster's state; if it runs, it ends", http.StatusOK),
		func(ctx context.Context, in *struct {
			Member string `path:"member" doc:"Its id or address, or name or id of the node, percent-encoded"`
		},
		) (*body[Member], error) {
			which, err := url.PathUnescape(in.Member)
			if err != nil {
				which = in.Member
			}
			m, err := cfg.Store.RemoveMember(ctx, which)
			switch {
			case errors.Is(err, store.ErrNoMember):
				return nil, problem(http.StatusNotFound, "member_not_found", "there is no member "+tunnel.Clean(which)+", or several: see culvert cluster list")
			case errors.Is(err, store.ErrLastVoter), errors.Is(err, store.ErrUnsafe):
				return nil, problem(http.StatusConflict, "member_needed", err.Error())
			case err != nil:
				return nil, explain(err)
			}
			return &body[Member]{m}, nil
		})
}
