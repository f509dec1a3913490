package auth

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// TestProve asks a DNS server that has the record of one domain, knows nothing of others,
// and fails for one.
func TestProve(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		switch name := q.Question[0].Name; {
		case name == "_culvert.broken.example.com.":
			m.Rcode = dns.RcodeServerFailure
		case name == "_culvert.app.example.com." && q.Question[0].Qtype == dns.TypeTXT:
			for _, text := range []string{"v=spf1 -all", "culvert-token=mine"} {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text}})
			}
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	d := Domains{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}}
	for _, host := range []string{"app.example.com", "*.app.example.com"} {
		if err := d.Prove(t.Context(), host, "mine"); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for host, retryable := range map[string]bool{"app.example.com": false, "other.example.com": false, "broken.example.com": true} {
		err := d.Prove(t.Context(), host, "other")
		var refused *tunnel.BindError
		if !errors.As(err, &refused) || refused.Code != tunnel.CodeDomainUnproven || refused.Retryable != retryable || !strings.Contains(err.Error(), "_culvert."+host) {
			t.Errorf("%s: %v", host, err)
		}
		if !retryable && !strings.Contains(err.Error(), "culvert-token=other") {
			t.Errorf("%s does not say what to set: %v", host, err)
		}
	}
}
