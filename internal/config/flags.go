package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// envPrefix of the variables that stand for flags: CULVERT_TCP_PORTS for
// --tcp-ports.
const envPrefix = "CULVERT_"

// EnvName is the variable that stands for a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Setting is what a file says of one flag, and where.
type Setting struct {
	Key    string // as the file names it
	Values []string
	Place
}

// Settings are a file's, by flag.
type Settings map[string]Setting

// alternatives are flags of which one makes the other meaningless. Whichever comes
// from the higher source wins: --token-file beats CULVERT_TOKEN.
var alternatives = map[string]string{
	"token": "token-file", "token-file": "token",
	"name": "url", "url": "name",
	"redirect": "no-redirect", "no-redirect": "redirect",
}

// Overlay sets the flags that were not given from the environment and, failing
// that, from the file. A variable that is set to nothing counts as not set; one for
// a flag that may be repeated holds a list with commas.
func Overlay(flags *pflag.FlagSet, env LookupEnv, file Settings) error {
	variables := make(map[string]Setting)
	flags.VisitAll(func(f *pflag.Flag) {
		v, _ := env(EnvName(f.Name))
		if v == "" || f.Name == "help" {
			return
		}
		values := []string{v}
		if _, list := f.Value.(pflag.SliceValue); list {
			values = strings.Split(v, ",")
		}
		variables[f.Name] = Setting{Key: EnvName(f.Name), Values: values}
	})
	for _, source := range []Settings{variables, file} {
		if err := overlay(flags, source); err != nil {
			return err
		}
	}
	return nil
}

// OverlayFile sets flags from a file alone, which tells whether the file is in order
// whatever the environment says.
func OverlayFile(flags *pflag.FlagSet, file Settings) error { return overlay(flags, file) }

// overlay sets flags that no higher source has set.
func overlay(flags *pflag.FlagSet, source Settings) error {
	var open []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		other := flags.Lookup(alternatives[f.Name])
		if !f.Changed && (other == nil || !other.Changed) {
			open = append(open, f)
		}
	})
	for _, f := range open {
		s := source[f.Name]
		for _, v := range s.Values {
			err := flags.Set(f.Name, strings.TrimSpace(v))
			var invalid *pflag.InvalidValueError
			switch {
			case err == nil:
			case errors.As(err, &invalid) && s.File != "":
				return s.Fault(fmt.Sprintf("%s %q: %v", s.Key, invalid.GetValue(), invalid.Unwrap()))
			case errors.As(err, &invalid):
				return fmt.Errorf("environment variable %s %q: %w", s.Key, invalid.GetValue(), invalid.Unwrap())
			default:
				return err
			}
		}
	}
	return nil
}
