package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
	"github.com/culvert-tunnel/culvert/internal/server/store"
	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Name is a name that belongs to a token.
type Name struct {
	Name    string    `json:"name" doc:"Such as http://app.example.com (which stands for https too), tls://db.example.com, tcp://:20022"`
	Token   string    `json:"token" doc:"Id of the token whose agents may bind it"`
	Created time.Time `json:"created"`
	Kept    bool      `json:"reserved" doc:"Nobody else may bind it; else the token was the last to have this domain"`
}

// NewName asks for a name to be kept.
type NewName struct {
	Name  string `json:"name" maxLength:"300" doc:"https://app.example.com, tls://db.example.com, tcp://:20022, or one word for a name below the server's domain"`
	Token string `json:"token" maxLength:"64" doc:"Id of a token"`
}

func (cfg Config) addNames(api huma.API) {
	huma.Register(api, operation("list-names", http.MethodGet, "/names", "List the names that belong to tokens", http.StatusOK),
		func(context.Context, *struct{}) (*body[[]Name], error) {
			list := []Name{}
			for _, r := range cfg.Store.Reservations() {
				list = append(list, Name(r))
			}
			return &body[[]Name]{list}, nil
		})
	huma.Register(api, operation("reserve-name", http.MethodPost, "/names", "Keep a name for a token's agents, also while they are away", http.StatusCreated), cfg.reserve)
	huma.Register(api, operation("release-name", http.MethodDelete, "/names/{name}", "Give a name up", http.StatusNoContent),
		func(ctx context.Context, in *struct {
			Name string `path:"name" doc:"Percent-encoded"`
		},
		) (*struct{}, error) {
			raw, err := url.PathUnescape(in.Name)
			if err != nil {
				raw = in.Name
			}
			name, err := parseName(raw, cfg.Domain)
			if err != nil {
				return nil, err
			}
			switch err := cfg.Store.Unreserve(ctx, name); {
			case errors.Is(err, store.ErrNotFound):
				return nil, problem(http.StatusNotFound, "name_not_found", name+" is not reserved: see culvert name list")
			case err != nil:
				return nil, explain(err)
			}
			return nil, nil //nolint:nilnil // no content
		})
}

func (cfg Config) reserve(ctx context.Context, in *body[NewName]) (*body[Name], error) {
	name, err := parseName(in.Body.Name, cfg.Domain)
	if err != nil {
		return nil, err
	}
	token, ok := cfg.Store.Token(in.Body.Token)
	if !ok || token.Admin || token.Join {
		return nil, problem(http.StatusNotFound, "token_not_found", "there is no token "+tunnel.Clean(in.Body.Token)+" for agents: see culvert token list")
	}
	err = cfg.Store.Reserve(ctx, name, token.ID)
	var reserved *store.ReservedError
	var held *store.HeldError
	switch {
	case errors.As(err, &reserved):
		return nil, problem(http.StatusConflict, "name_reserved", name+" is reserved by token "+reserved.Token+": release it first")
	case errors.As(err, &held):
		return nil, problem(http.StatusConflict, "name_taken", name+" is served by an agent with token "+held.Holder.Token+": stop that first")
	case err != nil:
		return nil, explain(err)
	}
	return &body[Name]{Name{Name: name, Token: token.ID, Created: time.Now().UTC().Truncate(time.Second), Kept: true}}, nil
}

// parseName reads a name as people write it.
func parseName(s, domain string) (string, error) {
	var spec endpoint.Spec
	var err error
	if strings.ContainsAny(s, ":/.") {
		spec, err = endpoint.ParseURL(s)
	} else {
		spec, err = endpoint.ParseURL("https://" + s + "." + domain)
	}
	if err == nil && spec.Host == "" && spec.Port == 0 {
		err = endpoint.ErrBadURL
	}
	if err != nil {
		return "", problem(http.StatusBadRequest, "bad_name", tunnel.Clean(err.Error())+", or write one word for a name below "+domain)
	}
	return endpoint.Name{Kind: spec.Kind, Host: spec.Host, Path: spec.Path, Port: spec.Port}.String(), nil
}
