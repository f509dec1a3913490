package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// backupTime bounds the writing of a backup.
const backupTime = 10 * time.Minute

func (cfg Config) addBackup(api huma.API) {
	op := operation("backup", http.MethodGet, "/backup", "Back up the cluster's state, as JSON lines; without the last one, which has a sum, it is not whole", http.StatusOK)
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The backup. It holds secrets: keys of CAs and of certificates", Content: map[string]*huma.MediaType{"application/jsonl": {}},
	}}
	huma.Register(api, op, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(h huma.Context) {
			h.SetHeader("Content-Type", "application/jsonl")
			_, w := humago.Unwrap(h)
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(backupTime))
			_ = cfg.Backup(ctx, w) // who reads it sees that the end is missing
		}}, nil
	})
}
