package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/culvert-tunnel/culvert/bench/rival"
)

// bulk moves as much as goes over n connections with iperf3.
func bulk(name string, n int, down bool) Work {
	run := func(ctx context.Context, s *rival.Subject, d time.Duration) ([]float64, float64, error) {
		address, err := s.Address(rival.Bulk)
		if err != nil {
			return nil, 0, err
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, 0, err
		}
		seconds := max(1, int(d.Round(time.Second).Seconds())) // iperf3 knows whole ones
		args := []string{"-J", "-c", host, "-p", port, "-P", strconv.Itoa(n), "-t", strconv.Itoa(seconds), "--connect-timeout", "5000"}
		if down {
			args = append(args, "-R")
		}
		ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
		defer cancel()
		once := func() (rate, bytes float64, err error) {
			out, err := output(ctx, s, "iperf3", args...)
			if err != nil {
				return 0, 0, err
			}
			return parseIperf([]byte(out))
		}
		rate, bytes, err := once()
		// Its server listens anew after each test, and refuses who comes before that.
		for tries := 0; err != nil && tries < 3; tries++ {
			time.Sleep(200 * time.Millisecond)
			rate, bytes, err = once()
		}
		return []float64{rate / 8e9}, bytes, err
	}
	return Work{Name: name, Needs: []string{"iperf3"}, Metrics: []Metric{{Name: "rate", Unit: "GB/s", Higher: true}}, Run: run}
}

// parseIperf reads what the receiving side got: bits per second and bytes.
func parseIperf(out []byte) (rate, bytes float64, err error) {
	var report struct {
		Error string
		End   struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return 0, 0, fmt.Errorf("read iperf3's report: %w", err)
	}
	if report.Error != "" {
		return 0, 0, errors.New("iperf3: " + report.Error)
	}
	if report.End.Received.Bytes <= 0 {
		return 0, 0, errors.New("iperf3: nothing was received")
	}
	return report.End.Received.Rate, report.End.Received.Bytes, nil
}
