package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/culvert-tunnel/culvert/internal/config"
	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// addLimits adds the flags of an endpoint's limits.
func addLimits(fs *pflag.FlagSet, l *config.Limits, kind endpoint.Kind) {
	what := "connections"
	if kind == endpoint.UDP {
		what = "flows (visitors' addresses)"
	}
	fs.Uint32Var(&l.MaxConnections, "max-connections", 0, "how many "+what+" at a time; no limit by default")
	fs.Uint32Var(&l.ConnectionRate, "connection-rate", 0, "how many new "+what+" per second; no limit by default")
	fs.StringVar(&l.Bandwidth, "bandwidth", "", "bytes per second in each direction, of all visitors together, such as 10MB or 80Mbit; no limit by default")
	fs.StringVar(&l.ConnectionBandwidth, "connection-bandwidth", "", "likewise, of each visitor")
	if kind == endpoint.UDP {
		fs.StringVar(&l.IdleTimeout, "idle-timeout", "", "silence that ends a visitor's flow (default: the server's, 1m)")
		return
	}
	fs.StringVar(&l.IdleTimeout, "idle-timeout", "", "silence that ends a visitor's connection; none by default")
	fs.StringVar(&l.KeepAlive, "keep-alive", "", "silence after which a visitor's connection is asked for life; off for never (default: 15s)")
}

// parseLimits reads limits as the user wrote them.
func parseLimits(c config.Limits) (endpoint.Limits, error) {
	l := endpoint.Limits{Connections: c.MaxConnections, Rate: c.ConnectionRate}
	var err error
	duration := func(key, s string) time.Duration {
		if s == "" {
			return 0
		}
		d, perr := time.ParseDuration(s)
		if perr != nil || d <= 0 {
			err = errors.Join(err, fmt.Errorf("%s %q: write a duration such as 30s or 5m", key, s))
		}
		return d
	}
	bandwidth := func(key, s string) uint64 {
		n, perr := parseBandwidth(s)
		if perr != nil {
			err = errors.Join(err, fmt.Errorf("%s %q: %w", key, s, perr))
		}
		return n
	}
	l.Bandwidth = bandwidth("bandwidth", c.Bandwidth)
	l.ConnectionBandwidth = bandwidth("connection bandwidth", c.ConnectionBandwidth)
	l.IdleTimeout = duration("idle time-out", c.IdleTimeout)
	if c.KeepAlive == "off" {
		l.KeepAlive = -1 * time.Millisecond
	} else {
		l.KeepAlive = duration("keep-alive", c.KeepAlive)
	}
	return l, err
}

var errBandwidth = errors.New("write bytes per second such as 500KB, 10MB or 4MiB, or bits such as 80Mbit")

// units of bandwidths, in bytes per second, by their name in lower case.
var units = map[string]float64{
	"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
	"bit": 1. / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8,
}

// parseBandwidth reads bytes per second; nothing is 0.
func parseBandwidth(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	s = strings.TrimSuffix(strings.ToLower(strings.ReplaceAll(s, " ", "")), "/s")
	end := strings.IndexFunc(s, unicode.IsLetter)
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.ParseFloat(s[:end], 64)
	unit, known := units[s[end:]]
	if err != nil || !known || n <= 0 || n*unit < 1 || n*unit > math.MaxInt64/2 {
		return 0, errBandwidth
	}
	return uint64(n * unit), nil
}
