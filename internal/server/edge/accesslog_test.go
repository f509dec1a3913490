package edge

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// TestCombined: lines are what Apache's tools read, whatever visitors send.
func TestCombined(t *testing.T) {
	x := &exchange{
		visitor: endpoint.Visitor{Remote: netip.MustParseAddrPort("192.0.2.1:1")}, began: time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC),
		method: "GET", target: "/a\"b?token=secret", proto: "HTTP/1.1", status: 200, bytesOut: 5, referer: "https://a/?secret", userAgent: "x\ny\\\x7f\xff",
	}
	want := `192.0.2.1 - - [24/Nov/2026:01:02:03 +0000] "GET /a\x22b HTTP/1.1" 200 5 "https://a/" "x\x0ay\x5c\x7f\xff"` + "\n"
	if got := string(appendCombined(nil, x, false)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if got := string(appendCombined(nil, &exchange{method: "GET", proto: "HTTP/2.0", target: "/?q"}, true)); !strings.HasSuffix(got, `"GET /?q HTTP/2.0" 0 0 "-" "-"`+"\n") {
		t.Errorf("got %s", got)
	}
}

func TestRequestID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "4bf92f35-77b3/x=:@+_.": true, strings.Repeat("a", 128): true,
		"": false, "a b": false, "a\nb": false, `a"`: false, "<script>": false, "ü": false, strings.Repeat("a", 129): false,
	} {
		if isRequestID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}
