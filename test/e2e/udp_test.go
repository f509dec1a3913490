package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-tunnel/culvert/test/harness"
)

// serveUDP runs an upstream that answers each datagram with what answer makes of it.
func serveUDP(t *testing.T, address string, answer func(string) string) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = pc.WriteTo([]byte(answer(string(buf[:n]))), from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	return pc
}

// udpVisitor is a socket of a visitor of a udp:// URL.
func udpVisitor(t *testing.T, url string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", tcpAddress(strings.Replace(url, "udp://", "tcp://", 1)))
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends a datagram until an answer comes: any may be lost, and where the port is not
// open yet, the visitor is told at once.
func ask(t *testing.T, c net.Conn, question string) string {
	t.Helper()
	var answer string
	buf := make([]byte, 65535)
	eventually(t, fmt.Sprintf("an answer to %.40q", question), func() bool {
		if _, err := c.Write([]byte(question)); err != nil {
			return false // told of what was sent before
		}
		check(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err == nil
	})
	return answer
}

func TestUDP(t *testing.T) {
	n := startServer(t)
	up := serveUDP(t, "127.0.0.1:0", func(s string) string { return "re: " + s })
	agent, url := n.publish("udp", up.LocalAddr().String())
	c := udpVisitor(t, url)
	t.Run("borders", func(t *testing.T) {
		for _, size := range []int{0, 1, 1400, 9000, 65503} {
			q := strings.Repeat("q", size)
			if got := ask(t, c, q); got != "re: "+q {
				t.Errorf("%d bytes came back as %d", size, len(got))
			}
		}
	})
	t.Run("order", func(t *testing.T) {
		const batch = 100
		for i := range batch {
			_, err := fmt.Fprintf(c, "%03d", i)
			check(t, err)
		}
		buf, last := make([]byte, 100), ""
		for range batch {
			check(t, c.SetReadDeadline(time.Now().Add(patience)))
			n, err := c.Read(buf)
			check(t, err)
			if got := string(buf[:n]); got <= last {
				t.Fatalf("%q came after %q", got, last)
			} else {
				last = got
			}
		}
	})
	t.Run("visitors have flows of their own", func(t *testing.T) {
		for i := range 20 {
			if got := ask(t, udpVisitor(t, url), fmt.Sprint(i)); got != fmt.Sprintf("re: %d", i) {
				t.Errorf("visitor %d got %q", i, got)
			}
		}
	})
	t.Run("an upstream that is gone is said once, and its return", func(t *testing.T) {
		address := up.LocalAddr().String()
		check(t, up.Close())
		for range 3 {
			_, _ = c.Write([]byte("anybody?"))
		}
		down := func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "upstream is down") }
		_, at := agent.wait(0, "upstream is down", down)
		serveUDP(t, address, func(string) string { return "back" })
		if got := ask(t, c, "now?"); got != "back" {
			t.Errorf("got %q", got)
		}
		agent.wait(at, "upstream is back", msg("upstream is back"))
	})
	t.Run("stopping does not wait for silent flows to expire", func(t *testing.T) {
		began := time.Now()
		agent.signal(syscall.SIGTERM)
		if code := agent.exit(); code != 0 || agent.count(func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "connections cut off") }) > 0 {
			t.Errorf("exit code %d after %s", code, time.Since(began))
		}
		n.wait(0, "agent disconnected", msg("agent disconnected"))
		n.signal(syscall.SIGTERM)
		if code := n.exit(); code != 0 || n.count(func(l logLine) bool { return strings.HasPrefix(l.str("msg"), "visitors cut off") }) > 0 {
			t.Errorf("server's exit code %d", code)
		}
	})
}

func TestUDPFlowsExpire(t *testing.T) {
	n := startServer(t, "--udp-idle-timeout", "300ms")
	up := serveUDP(t, "127.0.0.1:0", func(s string) string { return s })
	agent, url := n.publish("udp", up.LocalAddr().String())
	c := udpVisitor(t, url)
	ask(t, c, "hello")
	served := func(l logLine) bool { return l.str("msg") == "visitor served" && l.str("name") != "" }
	_, at := n.wait(0, "the flow's end", served)
	agent.wait(0, "the flow's end at the agent", msg("stream served"))
	if got := ask(t, c, "again"); got != "again" {
		t.Errorf("got %q", got)
	}
	n.wait(at, "the second flow's end", served)
}

// TestUDPAllAddresses: an answer comes from the address that was asked, also where the
// port is open on all of them.
func TestUDPAllAddresses(t *testing.T) {
	n := startServer(t, "--tcp-host", "")
	up := serveUDP(t, "127.0.0.1:0", func(s string) string { return s })
	_, url := n.publish("udp", up.LocalAddr().String())
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "udp://"))
	check(t, err)
	hosts := []string{"127.0.0.1", "127.0.0.7", "127.1.2.3"}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		_ = l.Close()
		hosts = append(hosts, "::1")
	}
	for _, host := range hosts {
		c, err := net.Dial("udp", net.JoinHostPort(host, port)) // takes answers from there alone
		check(t, err)
		if got := ask(t, c, host); got != host {
			t.Errorf("%s: got %q", host, got)
		}
		_ = c.Close()
	}
	addrs, err := net.InterfaceAddrs()
	check(t, err)
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		c, err := net.Dial("udp", net.JoinHostPort(ip.IP.String(), port))
		check(t, err)
		if got := ask(t, c, "x"); got != "x" {
			t.Errorf("%s: got %q", ip.IP, got)
		}
		_ = c.Close()
	}
}

// TestDig asks a DNS server behind a udp endpoint.
func TestDig(t *testing.T) {
	n := startServer(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Qtype == dns.TypeTXT {
			for i := range 16 {
				rr, _ := dns.NewRR(fmt.Sprintf(`big.example.com. 60 IN TXT "%02d%s"`, i, strings.Repeat("x", 230)))
				m.Answer = append(m.Answer, rr)
			}
		} else {
			rr, _ := dns.NewRR("www.example.com. 60 IN A 192.0.2.7")
			m.Answer = append(m.Answer, rr)
		}
		if o := r.IsEdns0(); o != nil {
			m.SetEdns0(o.UDPSize(), false)
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown(); <-ended })
	_, url := n.publish("udp", pc.LocalAddr().String())
	host, port, err := net.SplitHostPort(tcpAddress(strings.Replace(url, "udp://", "tcp://", 1)))
	check(t, err)
	dig := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "dig", append([]string{"@" + host, "-p", port, "+tries=5", "+ignore", "+nocookie"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dig: %v\n%s", err, out)
		}
		return string(out)
	}
	if got := dig("+short", "www.example.com"); got != "192.0.2.7\n" {
		t.Errorf("dig says %q", got)
	}
	big := dig("+bufsize=4096", "big.example.com", "TXT")
	if strings.Count(big, `"`) != 32 || !strings.Contains(big, "MSG SIZE  rcvd: 4") && !strings.Contains(big, "MSG SIZE  rcvd: 39") {
		t.Errorf("the large answer came as\n%s", big)
	}
}

// TestIperf measures loss at a modest rate, at which there is none to speak of.
func TestIperf(t *testing.T) {
	n := startServer(t)
	port := harness.FreePort(t)
	srv := exec.CommandContext(t.Context(), "iperf3", "-s", "-p", port, "-B", "127.0.0.1")
	check(t, srv.Start())
	t.Cleanup(func() { _ = srv.Process.Kill(); _ = srv.Wait() })
	eventually(t, "iperf3 to listen", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	_, tcp := n.publish("tcp", "127.0.0.1:"+port)
	at := tcpAddress(tcp)
	_, edge, _ := net.SplitHostPort(at)
	n.publish("udp", "127.0.0.1:"+port, "--url", "udp://:"+edge)
	// Iperf's server takes the connection that asked whether it listens for a test.
	var out []byte
	eventually(t, "iperf3 to measure", func() bool {
		var err error
		out, err = exec.CommandContext(t.Context(), "iperf3", "-c", "127.0.0.1", "-p", edge, "-u", "-b", "20M", "-l", "1200", "-w", "2M", "-t", "2", "--json").Output()
		return err == nil
	})
	var result struct {
		End struct {
			Sum struct {
				Packets     int     `json:"packets"`
				LostPercent float64 `json:"lost_percent"`
			} `json:"sum"`
		} `json:"end"`
	}
	check(t, json.Unmarshal(out, &result))
	t.Logf("%d datagrams, %.2f %% lost", result.End.Sum.Packets, result.End.Sum.LostPercent)
	if result.End.Sum.Packets < 1000 || result.End.Sum.LostPercent > 5 {
		t.Errorf("%+v", result.End.Sum)
	}
}

// TestQUIC: an HTTP/3 server behind a udp endpoint.
func TestQUIC(t *testing.T) {
	n := startServer(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	body := strings.Repeat("0123456789abcdef", 1<<16)
	srv := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("localhost")}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%d ", len(b))
			_, _ = io.WriteString(w, body)
		}),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(pc) }()
	t.Cleanup(func() { _ = srv.Close(); <-ended; _ = pc.Close() })
	_, url := n.publish("udp", pc.LocalAddr().String())
	tr := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the tunnel is what is tested
	t.Cleanup(func() { _ = tr.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+tcpAddress(strings.Replace(url, "udp://", "tcp://", 1)), strings.NewReader(body))
	check(t, err)
	resp, err := (&http.Client{Transport: tr}).Do(req)
	check(t, err)
	got, err := io.ReadAll(resp.Body)
	check(t, err)
	_ = resp.Body.Close()
	if resp.Proto != "HTTP/3.0" || string(got) != fmt.Sprint(len(body))+" "+body {
		t.Errorf("%s with %d bytes", resp.Proto, len(got))
	}
}
