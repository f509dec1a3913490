package admin

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

// ProblemError is the body of an answer that is no success (RFC 9457).
type ProblemError struct {
	Title  string `json:"title,omitempty"`
	Status int    `json:"status"`
	Detail string `json:"detail" doc:"A sentence that says what to do"`
	Code   string `json:"code,omitempty" doc:"For programs"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors,omitempty" doc:"Faults of the request's fields"`
}

func (p *ProblemError) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *ProblemError) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (*ProblemError) ContentType(string) string { return "application/problem+json" }

func problem(status int, code, detail string) error {
	return &ProblemError{Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// explain turns the store's errors into answers.
func explain(err error) error {
	switch {
	case errors.Is(err, store.ErrUnavailable):
		return problem(http.StatusServiceUnavailable, "store_unavailable", "the store is out of reach for the moment: try again")
	case errors.Is(err, store.ErrAlone):
		return problem(http.StatusConflict, "no_cluster", err.Error())
	case errors.Is(err, store.ErrFull):
		return problem(http.StatusInsufficientStorage, "store_full", "the store is full: see culvert status")
	case errors.Is(err, store.ErrTooLarge):
		return problem(http.StatusRequestEntityTooLarge, "too_large", "this is too large to be kept")
	}
	return problem(http.StatusInternalServerError, "internal", err.Error())
}

// refuse answers who shows no admin token, ahead of the API.
func refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusUnauthorized)
	_ = json.NewEncoder(w).Encode(ProblemError{
		Title: http.StatusText(http.StatusUnauthorized), Status: http.StatusUnauthorized, Code: "admin_token_needed",
		Detail: "an admin token is needed: make one on the server's machine with culvert token create --admin",
	})
}
