package cli

import (
	"encoding/json"
	"io"
)

// printData prints data as JSON, or as text by calling text.
func printData(env *Env, form string, data any, text func(io.Writer)) error {
	if form == "json" {
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(data)
	}
	text(env.Stdout)
	return nil
}
