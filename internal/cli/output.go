package cli

import (
	"encoding/json"
	"io"
)

// printData prints data as JSON, or as text by calling text.
func printData(env *Env, form string, data any, text func(io.Writer)) error {
	switch form {
	case "text":
		text(env.Stdout)
		return nil
	case "json":
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(data)
	}
	return usagef("--output %q: use text or json", form)
}
