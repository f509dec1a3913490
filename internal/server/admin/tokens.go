package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/auth"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Token is a token as the API shows it: never its secret.
type Token struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Expired bool      `json:"expired,omitempty"`
	Rights
}

// Rights are what a token is good for. Limits that are left out are none.
type Rights struct {
	Label          string    `json:"label,omitempty" maxLength:"128" doc:"What the token is for"`
	Allow          []string  `json:"allow,omitempty" maxItems:"100" doc:"What it may bind, such as https://*.example.com or tcp:20000-20009; nothing: everything"`
	MaxEndpoints   int       `json:"max_endpoints,omitempty" minimum:"0" doc:"Endpoints of all its agents together"`
	MaxSessions    int       `json:"max_sessions,omitempty" minimum:"0" doc:"Agents connected to one node at once"`
	MaxConnections int       `json:"max_connections,omitempty" minimum:"0" doc:"Visitors' connections through one node at once"`
	Bandwidth      uint64    `json:"bandwidth,omitempty" minimum:"0" doc:"Bytes per second that visitors of its agents at one node may move together, in each direction"`
	NoPool         bool      `json:"no_pool,omitempty" doc:"Its agents share no name with each other"`
	Expires        time.Time `json:"expires,omitzero" required:"false" doc:"When it ends, and its agents' sessions with it"`
	Admin          bool      `json:"admin,omitempty" doc:"For this API, and not for agents"`
	Join           bool      `json:"join,omitempty" doc:"For servers that join the cluster, and not for agents"`
}

// CreatedToken answers the making of a token.
type CreatedToken struct {
	ID    string `json:"id"`
	Token string `json:"token" doc:"The whole token, which can't be had again"`
}

func (cfg Config) addTokens(api huma.API) {
	huma.Register(api, operation("list-tokens", http.MethodGet, "/tokens", "List the tokens", http.StatusOK),
		func(context.Context, *struct{}) (*body[[]Token], error) {
			list, now := []Token{}, time.Now()
			for _, t := range cfg.Store.Tokens() {
				list = append(list, Token{ID: t.ID, Created: t.Created, Expired: t.Expired(now), Rights: Rights(t.Rights)})
			}
			return &body[[]Token]{list}, nil
		})
	huma.Register(api, operation("create-token", http.MethodPost, "/tokens", "Make a token", http.StatusCreated), cfg.createToken)
	huma.Register(api, operation("revoke-token", http.MethodDelete, "/tokens/{id}", "Revoke a token and end its agents' sessions, on all nodes", http.StatusNoContent),
		func(ctx context.Context, in *struct {
			ID string `path:"id"`
		},
		) (*struct{}, error) {
			switch err := cfg.Store.RevokeToken(ctx, in.ID); {
			case errors.Is(err, store.ErrNoToken):
				return nil, problem(http.StatusNotFound, "token_not_found", "there is no token "+tunnel.Clean(in.ID)+": see culvert token list")
			case err != nil:
				return nil, explain(err)
			}
			return nil, nil //nolint:nilnil // no content
		})
}

func (cfg Config) createToken(ctx context.Context, in *body[Rights]) (*body[CreatedToken], error) {
	r := in.Body
	if tunnel.Clean(r.Label) != r.Label {
		return nil, problem(http.StatusBadRequest, "bad_label", "the label must be printable")
	}
	for _, rule := range r.Allow {
		if err := auth.CheckRule(rule); err != nil {
			return nil, problem(http.StatusBadRequest, "bad_rule", err.Error())
		}
	}
	if store.Rights(r).Expired(time.Now()) {
		return nil, problem(http.StatusBadRequest, "bad_expiry", "the token would have expired already")
	}
	if (r.Admin || r.Join) && (len(r.Allow) > 0 || r.NoPool || r.Bandwidth > 0 || r.MaxEndpoints+r.MaxSessions+r.MaxConnections > 0) {
		return nil, problem(http.StatusBadRequest, "bad_rights", "an admin token, or one to join with, binds nothing: leave out what limits agents")
	}
	if r.Bandwidth > 0 && r.Bandwidth < endpoint.LeastBandwidth {
		return nil, problem(http.StatusBadRequest, "bad_bandwidth", fmt.Sprintf("a bandwidth is at least %d bytes per second", endpoint.LeastBandwidth))
	}
	if r.Admin && r.Join {
		return nil, problem(http.StatusBadRequest, "bad_rights", "a token is for administration or for joining: make two")
	}
	fingerprint := cfg.Fingerprint()
	if r.Join {
		var err error
		if fingerprint, err = cfg.JoinFingerprint(); err != nil {
			return nil, problem(http.StatusConflict, "no_cluster", err.Error())
		}
	}
	token, err := cfg.Store.CreateToken(ctx, fingerprint, store.Rights(r))
	if err != nil {
		return nil, explain(err)
	}
	return &body[CreatedToken]{CreatedToken{ID: token.ID, Token: token.Reveal()}}, nil
}
