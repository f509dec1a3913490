package work

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
)

var requestMetrics = []Metric{{Name: "rate", Unit: "requests/s", Higher: true}, {Name: "p99", Unit: "ms"}}

// requests asks for a page over n connections with one thread of wrk.
func requests(name, path string, n int, closing bool) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		if s.HTTP == "" {
			return nil, 0, rival.ErrNotOffered
		}
		seconds := max(1, int(d.Round(time.Second).Seconds()))
		args := []string{"-t1", "-c" + strconv.Itoa(n), "-d" + strconv.Itoa(seconds) + "s", "--latency", "--timeout", "20s", "-H", "Host: " + rival.Host}
		if closing {
			args = append(args, "-H", "Connection: close")
		}
		ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
		defer cancel()
		out, err := output(ctx, s, "wrk", append(args, s.HTTP+path)...)
		if err != nil {
			return nil, 0, err
		}
		return parseWrk(out)
	}
	return Work{Name: name, Needs: []string{"wrk"}, Metrics: requestMetrics, Run: run}
}

// stalling is how long it takes until the buffers between a service and a visitor who does
// not read are full.
const stalling = 3 * time.Second

// beside has a third each of n visitors stop within a head, within a body and within taking
// an answer, all for as long as others do a work.
func beside(n int, w Work) Work {
	run := w.Run
	w.Name += fmt.Sprintf(", beside %d visitors who stopped", n)
	w.Run = func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		u, err := url.Parse(s.HTTP)
		if err != nil || s.HTTP == "" {
			return nil, 0, rival.ErrNotOffered
		}
		begun := []string{
			"GET /1k HTTP/1.1\r\nHost: " + rival.Host + "\r\nX-He",
			"POST /1k HTTP/1.1\r\nHost: " + rival.Host + "\r\nContent-Length: 100000\r\n\r\nbo",
			"GET /10m HTTP/1.1\r\nHost: " + rival.Host + "\r\n\r\n",
		}
		for i := range n {
			c, err := s.Visitor().Dial(ctx, u.Host)
			if err != nil {
				return nil, 0, err
			}
			defer c.Close()
			if _, err := io.WriteString(c, begun[i%len(begun)]); err != nil {
				return nil, 0, err
			}
		}
		select {
		case <-time.After(stalling):
			return run(ctx, s, d)
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	return w
}

var (
	wrkRate  = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkCount = regexp.MustCompile(`(\d+) requests in`)
	wrkP99   = regexp.MustCompile(`(?m)^\s+99%\s+(\S+)`)
	wrkBad   = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors: .*`)
)

// parseWrk reads requests per second, the 99th percentile in milliseconds, and the
// number of requests.
func parseWrk(out string) ([]float64, float64, error) {
	// Its count of read errors holds the connections it closes itself at the end.
	if bad := wrkBad.FindString(out); bad != "" && !closedAtEnd.MatchString(bad) {
		return nil, 0, fmt.Errorf("wrk: %s", bad)
	}
	rate, err := number(wrkRate, out)
	if err != nil {
		return nil, 0, err
	}
	count, err := number(wrkCount, out)
	if err != nil {
		return nil, 0, err
	}
	m := wrkP99.FindStringSubmatch(out)
	if m == nil {
		return nil, 0, fmt.Errorf("wrk printed no 99%%: %s", out)
	}
	p99, err := time.ParseDuration(m[1])
	return []float64{rate, p99.Seconds() * 1e3}, count, err
}

var closedAtEnd = regexp.MustCompile(`^Socket errors: connect 0, read \d+, write 0, timeout 0$`)

func number(re *regexp.Regexp, text string) (float64, error) {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no %s in %s", re, text)
	}
	return strconv.ParseFloat(m[1], 64)
}

// streams asks for a page over HTTP/2 with h2load: n connections with m requests at a
// time on each.
func streams(name, path string, n, m int) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		if s.H2 == "" {
			return nil, 0, rival.ErrNotOffered
		}
		u, err := url.Parse(s.H2 + path)
		if err != nil {
			return nil, 0, err
		}
		seconds := max(1, int(d.Round(time.Second).Seconds()))
		ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
		defer cancel()
		out, err := output(ctx, s, "h2load", "-t1", "-c"+strconv.Itoa(n), "-m"+strconv.Itoa(m), "-D"+strconv.Itoa(seconds),
			"--connect-to", net.JoinHostPort(s.Visitor().IP(), u.Port()), u.String())
		if err != nil {
			return nil, 0, err
		}
		return parseH2load(out)
	}
	return Work{Name: name, Needs: []string{"h2load"}, Metrics: requestMetrics[:1], Run: run}
}

var (
	h2Protocol = regexp.MustCompile(`Application protocol: (\S+)`)
	h2Rate     = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)
	h2Done     = regexp.MustCompile(`(\d+) succeeded`)
	h2Bad      = regexp.MustCompile(`(\d+) failed, (\d+) errored`)
	h2Status   = regexp.MustCompile(`status codes: (\d+) 2xx`)
)

// parseH2load reads requests per second and the number of requests.
func parseH2load(out string) ([]float64, float64, error) {
	if m := h2Protocol.FindStringSubmatch(out); m == nil || m[1] != "h2" {
		return nil, 0, fmt.Errorf("h2load spoke no HTTP/2: %s", out)
	}
	if m := h2Bad.FindStringSubmatch(out); m == nil || m[1] != "0" || m[2] != "0" {
		return nil, 0, fmt.Errorf("h2load: requests failed: %s", out)
	}
	rate, err := number(h2Rate, out)
	if err != nil {
		return nil, 0, err
	}
	done, err := number(h2Done, out)
	if err != nil {
		return nil, 0, err
	}
	ok, err := number(h2Status, out)
	if err == nil && ok < done {
		err = fmt.Errorf("h2load: %v of %v answers were 2xx", ok, done)
	}
	return []float64{rate}, done, err
}
