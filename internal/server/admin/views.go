package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// Status is a node at one moment.
type Status struct {
	Node     string       `json:"node" doc:"Name of the node that answers"`
	NodeID   string       `json:"node_id"`
	Version  string       `json:"version"`
	Domain   string       `json:"domain"`
	Since    time.Time    `json:"since"`
	Ready    bool         `json:"ready"`
	Problem  string       `json:"problem,omitempty" doc:"Why it is not ready"`
	Sessions int          `json:"sessions" doc:"Agents connected to this node"`
	Names    int          `json:"names" doc:"Names they serve"`
	Streams  int          `json:"streams"`
	Visits   int          `json:"visits" doc:"Visitors being served by this node"`
	Nodes    int          `json:"nodes" doc:"Nodes in the cluster"`
	Store    store.Health `json:"store"`
}

// Node is a server of the cluster.
type Node struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Region  string    `json:"region,omitempty"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since"`
}

// Session is an agent that is connected to the node that answers.
type Session struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Generation uint64    `json:"generation"`
	Token      string    `json:"token"`
	Version    string    `json:"version,omitempty"`
	Since      time.Time `json:"since"`
	Endpoints  int       `json:"endpoints"`
}

// Endpoint is a name that an agent serves, on any node.
type Endpoint struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Agent   string    `json:"agent"`
	Token   string    `json:"token"`
	Node    string    `json:"node" doc:"Id of the node"`
	Session string    `json:"session"`
	Since   time.Time `json:"since"`
	Pool    bool      `json:"pool,omitempty" doc:"It is a member of a pool: others may have the name too"`
	Weight  int       `json:"weight,omitempty" doc:"In the pool"`
	Down    bool      `json:"down,omitempty" doc:"Its agent's checks fail, so that its visitors go to other members"`
}

// Certificate is what is known of one.
type Certificate struct {
	Host    string    `json:"host"`
	Source  string    `json:"source" enum:"file,acme"`
	State   string    `json:"state" enum:"ready,pending,failed"`
	Issuer  string    `json:"issuer,omitempty" doc:"Its common name or organisation"`
	Expires time.Time `json:"expires,omitzero" required:"false" doc:"Of the one in place"`
	Error   string    `json:"error,omitempty" doc:"Of the last order, which failed"`
	Retry   time.Time `json:"retry_at,omitzero" required:"false" doc:"When it is tried again, at the latest"`
}

// weightOf is a member's weight, 0 for what is no pool's.
func weightOf(r store.Route) int {
	var spec endpoint.Spec
	if r.Pool == "" || json.Unmarshal(r.Spec, &spec) != nil {
		return 0
	}
	return spec.Pool.WeightOf()
}

func (cfg Config) addViews(api huma.API) {
	huma.Register(api, operation("status", http.MethodGet, "/status", "How the node is", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*body[Status], error) {
			return &body[Status]{cfg.Status(ctx)}, nil
		})
	huma.Register(api, operation("list-nodes", http.MethodGet, "/nodes", "List the nodes of the cluster", http.StatusOK),
		func(context.Context, *struct{}) (*body[[]Node], error) {
			list := []Node{}
			for _, n := range cfg.Store.Nodes() {
				list = append(list, Node{ID: n.ID, Name: n.Name, Region: n.Region, Version: n.Version, Since: n.Since})
			}
			return &body[[]Node]{list}, nil
		})
	huma.Register(api, operation("list-sessions", http.MethodGet, "/sessions", "List the agents that are connected to this node", http.StatusOK),
		func(context.Context, *struct{}) (*body[[]Session], error) {
			return &body[[]Session]{cfg.Sessions()}, nil
		})
	huma.Register(api, operation("list-endpoints", http.MethodGet, "/endpoints", "List the endpoints of the cluster", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*body[[]Endpoint], error) {
			routes, err := cfg.Store.Routes(ctx)
			if err != nil {
				return nil, explain(err)
			}
			list := make([]Endpoint, 0, len(routes))
			for _, r := range routes {
				list = append(list, Endpoint{ID: r.Endpoint, Name: r.Name, Agent: r.Agent, Token: r.Token, Node: r.Node, Session: r.Session, Since: r.Since, Pool: r.Pool != "", Weight: weightOf(r), Down: r.Down})
			}
			slices.SortFunc(list, func(a, b Endpoint) int { return cmp.Or(strings.Compare(a.Name, b.Name), a.Since.Compare(b.Since)) })
			return &body[[]Endpoint]{list}, nil
		})
	huma.Register(api, operation("list-certificates", http.MethodGet, "/certificates", "List the certificates that visitors are shown, but those of the node's own CA", http.StatusOK),
		func(context.Context, *struct{}) (*body[[]Certificate], error) {
			return &body[[]Certificate]{cfg.Certificates()}, nil
		})
	huma.Register(api, operation("list-events", http.MethodGet, "/events", "List what happened in the last day, the newest first", http.StatusOK),
		func(ctx context.Context, in *struct {
			Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		},
		) (*body[[]store.Event], error) {
			list, err := cfg.Store.Events(ctx, in.Limit)
			if err != nil {
				return nil, explain(err)
			}
			return &body[[]store.Event]{list}, nil
		})
}
