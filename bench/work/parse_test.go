package work

import (
	"strings"
	"testing"
)

func TestParseIperf(t *testing.T) {
	rate, bytes, err := parseIperf([]byte(`{"start":{},"end":{"sum_sent":{"bytes":9,"bits_per_second":9},"sum_received":{"bytes":1250000,"bits_per_second":1e7}}}`))
	if err != nil || rate != 1e7 || bytes != 1_250_000 {
		t.Errorf("got %v, %v, %v", rate, bytes, err)
	}
	for name, out := range map[string]string{
		"an error":     `{"error":"the server is busy running a test. try again later"}`,
		"nothing came": `{"end":{"sum_received":{"bytes":0}}}`,
		"no report":    `iperf3: unable to connect`,
	} {
		if _, _, err := parseIperf([]byte(out)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

const wrkOutput = `Running 1s test @ http://127.0.0.1:1/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.50ms    4.80ms  35.11ms   72.30%
  Latency Distribution
     50%    5.61ms
     75%    8.90ms
     90%   12.72ms
     99%   22.20ms
  9937 requests in 1.00s, 11.20MB read
Requests/sec:   9936.58
Transfer/sec:     11.20MB
`

func TestParseWrk(t *testing.T) {
	values, count, err := parseWrk(wrkOutput)
	if err != nil || count != 9937 || values[0] != 9936.58 || values[1] != 22.2 {
		t.Errorf("got %v, %v, %v", values, count, err)
	}
	if _, _, err := parseWrk(wrkOutput + "  Socket errors: connect 0, read 12, write 0, timeout 0\n"); err != nil {
		t.Errorf("connections that were closed at the end: %v", err)
	}
	for _, bad := range []string{"  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 0, write 0, timeout 7\n"} {
		if _, _, err := parseWrk(wrkOutput + bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if _, _, err := parseWrk("unable to connect to 127.0.0.1:1 Connection refused"); err == nil {
		t.Error("no figures: no error")
	}
}

const h2loadOutput = `Application protocol: h2
finished in 1.00s, 12345.67 req/s, 13.10MB/s
requests: 12345 total, 12409 started, 12345 done, 12345 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 12345 2xx, 0 3xx, 0 4xx, 0 5xx
`

func TestParseH2load(t *testing.T) {
	values, count, err := parseH2load(h2loadOutput)
	if err != nil || count != 12345 || values[0] != 12345.67 {
		t.Errorf("got %v, %v, %v", values, count, err)
	}
	for old, bad := range map[string]string{
		"protocol: h2": "protocol: http/1.1", "0 failed": "3 failed", "12345 2xx, 0 3xx, 0 4xx": "12000 2xx, 0 3xx, 345 4xx",
	} {
		if _, _, err := parseH2load(strings.Replace(h2loadOutput, old, bad, 1)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
