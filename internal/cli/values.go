package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-tunnel/culvert/internal/server/registry"
)

// The values of flags judge themselves, so that a bad one is told with its source:
// the flag, the variable, or the file and line.

// choice is a flag with one of a few values.
type choice struct {
	value   *string
	choices []string
}

func (c choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}
func (c choice) Type() string { return "string" }
func (c choice) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("use %s or %s", strings.Join(c.choices[:len(c.choices)-1], ", "), c.choices[len(c.choices)-1])
	}
	*c.value = s
	return nil
}

// addChoice adds a flag that is one of choices, the first by default.
func addChoice(cmd *cobra.Command, to *string, name, short, usage string, choices ...string) {
	if *to == "" {
		*to = choices[0]
	}
	cmd.Flags().VarP(choice{to, choices}, name, short, usage)
	// It fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
}

// wait is a flag for how long something may take. In the Configs zero stands for the
// default, so that no waiting at all is the least there is.
type wait time.Duration

func (w *wait) String() string { return time.Duration(*w).String() }
func (w *wait) Type() string   { return "duration" }
func (w *wait) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return errors.New("write a duration such as 10s or 1m30s")
	}
	*w = wait(max(d, 1))
	return nil
}

// size is a flag for bytes.
type size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (s *size) String() string {
	for _, u := range sizeUnits {
		if n := int64(*s); n > 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}
func (s *size) Type() string { return "size" }
func (s *size) Set(text string) error {
	factor := int64(1)
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > 64<<30/factor {
		return errors.New("write a size such as 512KiB, 50MiB or 1GiB")
	}
	*s = size(n * factor)
	return nil
}

// ports is a flag for a range of ports.
type ports registry.PortRange

func (p *ports) String() string {
	if r := registry.PortRange(*p); r.Size() > 0 {
		return r.String()
	}
	return "off"
}
func (p *ports) Type() string { return "first-last" }
func (p *ports) Set(s string) error {
	if s == "off" {
		*p = ports{}
		return nil
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	a, errA := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return errors.New("write first-last, such as 20000-20999, or off")
	}
	*p = ports{First: uint16(a), Last: uint16(b)}
	return nil
}

// parseNetworks reads networks (CIDR) and single addresses.
func parseNetworks(list []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, s := range list {
		n, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); err != nil && aerr == nil {
			n, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q: write a network such as 10.0.0.0/8, or an address", s)
		}
		networks = append(networks, n.Masked())
	}
	return networks, nil
}
