package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// TestTrustByQUIC: who may be trusted does not depend on the transport.
func TestTrustByQUIC(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(own.cert)
	pinned, given := Dialer{Fingerprint: tunnel.Fingerprint(own.cert)}, Dialer{Roots: roots}
	past := time.Now().Add(-time.Minute)
	var unset time.Time
	forged := other.leaf(NodeName, unset, unset)
	forged.Certificate[1] = own.cert.Raw
	for name, tc := range map[string]struct {
		dial      Dialer
		cert      tls.Certificate
		alpn      string
		want      error // nil with untrusted: any
		untrusted bool
	}{
		"pinned":                        {dial: pinned, cert: own.leaf(NodeName, unset, unset), alpn: tunnel.ALPN},
		"roots":                         {dial: given, cert: own.leaf("localhost", unset, unset), alpn: tunnel.ALPN},
		"pinned, another CA":            {dial: pinned, cert: other.leaf(NodeName, unset, unset), alpn: tunnel.ALPN, want: ErrWrongNode, untrusted: true},
		"pinned, forged chain":          {dial: pinned, cert: forged, alpn: tunnel.ALPN, want: ErrWrongNode, untrusted: true},
		"pinned, expired":               {dial: pinned, cert: own.leaf(NodeName, past.Add(-time.Hour), past), alpn: tunnel.ALPN, want: ErrExpired},
		"roots, another CA":             {dial: given, cert: other.leaf("localhost", unset, unset), alpn: tunnel.ALPN, untrusted: true},
		"roots, another name":           {dial: given, cert: own.leaf("app.example.com", unset, unset), alpn: tunnel.ALPN, untrusted: true},
		"a web server":                  {dial: given, cert: own.leaf("localhost", unset, unset), alpn: "h3", want: ErrNotANode},
		"one that asks again, for ever": {dial: given, cert: own.leaf("localhost", unset, unset), alpn: AgainALPN, want: ErrNoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			_, address := quicPort(t, &tls.Config{Certificates: []tls.Certificate{tc.cert}, NextProtos: []string{tc.alpn}})
			_, port, _ := net.SplitHostPort(address)
			tc.dial.Transport = QUIC
			c, err := tc.dial.Dial(t.Context(), net.JoinHostPort("localhost", port))
			if c != nil {
				_ = c.Close()
			}
			fails := tc.want != nil || tc.untrusted
			if (err != nil) != fails || tc.want != nil && !errors.Is(err, tc.want) || Untrusted(err) != tc.untrusted {
				t.Errorf("%v; untrusted: %v", err, Untrusted(err))
			}
		})
	}
}

// TestNoQUIC: where UDP is not answered, that is said; where there is a proxy, it is not
// tried.
func TestNoQUIC(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	defer silent.Close()
	d := Dialer{Transport: QUIC, Timeout: 200 * time.Millisecond}
	if _, err := d.Dial(t.Context(), silent.LocalAddr().String()); !errors.Is(err, ErrNoQUIC) {
		t.Errorf("silence: %v", err)
	}
	d.Proxy = func(string) (*url.URL, error) { return url.Parse("http://proxy.example") }
	if _, err := d.Dial(t.Context(), silent.LocalAddr().String()); !errors.Is(err, ErrQUICProxied) {
		t.Errorf("through a proxy: %v", err)
	}
	if order := d.order("x"); len(order) != 2 {
		t.Errorf("through a proxy %v are tried", order)
	}
}

// TestSilentUDP: a node that was reached by QUIC last is reached by TLS at once where UDP is
// not answered any more.
func TestSilentUDP(t *testing.T) {
	cfg, d := certified(t, Auto)
	address := serve(t, func(c net.Conn) {
		if conn, err := Accept(context.WithoutCancel(t.Context()), c, nil, cfg, patience); err == nil {
			_, _ = conn.Read(make([]byte, 1))
		}
	})
	silent, err := net.ListenPacket("udp", address)
	check(t, err)
	defer silent.Close()
	d.Last = func(string) Transport { return QUIC }
	worked := QUIC
	d.Worked = func(_ string, by Transport) { worked = by }
	began := time.Now()
	conn, err := d.Dial(t.Context(), address)
	check(t, err)
	if took := time.Since(began); conn.Transport() != TLS || worked != TLS || took < stagger || took > FallBack {
		t.Errorf("by %s in %v, remembered is %s", conn.Transport(), took, worked)
	}
	check(t, conn.Close())
}

// TestMoves: a connection whose way has died goes on by another one, and its streams notice
// nothing.
func TestMoves(t *testing.T) {
	var lost atomic.Int32
	heartbeat := 200 * time.Millisecond
	e, line := byLine(t, Config{Heartbeat: heartbeat, Resume: &Resume{
		Lost: func(error) { lost.Add(1) },
	}}, Config{Heartbeat: heartbeat, Resume: &Resume{}})
	e.run(t)
	node, agent := e.stream(t)
	paths := e.agent.carrier.(*quicSession).paths
	for range 6 {
		blocked, port := paths.inUse()
		line.block(port)
		transfer(t, node, agent)
		if now, _ := paths.inUse(); now == blocked {
			t.Errorf("path %d is dead and in use", now)
		}
	}
	if lost.Load() == 0 {
		t.Error("nobody has noticed")
	}
	if _, back := e.agent.Away(); back != nil {
		<-back
	}
}

// transfer has more pass from the node than is sent without an answer.
func transfer(t *testing.T, node, agent Stream) {
	t.Helper()
	want := filler(5, 200_000)
	go func() { _, _ = node.Write(want) }()
	got := make([]byte, len(want))
	check(t, agent.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(agent, got)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("something else has arrived")
	}
}

// inUse returns the path by which the agent sends, and its port.
func (p *quicPaths) inUse() (path, port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.active, p.mu.transports[p.mu.active].Conn.LocalAddr().(*net.UDPAddr).Port
}

// TestRebound: a NAT on the way that forgets a connection, and gives it another port, is
// no matter.
func TestRebound(t *testing.T) {
	e, line := byLine(t, Config{}, Config{})
	e.run(t)
	node, agent := e.stream(t)
	for range 5 {
		line.forget()
		_, err := agent.Write([]byte("x"))
		check(t, err)
		_, err = io.ReadFull(node, make([]byte, 1))
		check(t, err)
		_, err = node.Write([]byte("y"))
		check(t, err)
		check(t, agent.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.ReadFull(agent, make([]byte, 1))
		check(t, err)
	}
}

// TestSilentByQUIC: a link whose other side is gone for good ends after the window, on both
// sides, which are away meanwhile.
func TestSilentByQUIC(t *testing.T) {
	lost := [2]chan error{make(chan error, 1), make(chan error, 1)}
	settings := func(i int) Config {
		return Config{Heartbeat: 100 * time.Millisecond, Resume: &Resume{Window: 800 * time.Millisecond, Lost: func(err error) { lost[i] <- err }}}
	}
	e, line := byLine(t, settings(1), settings(0))
	e.run(t)
	node, _ := e.stream(t)
	line.cut()
	for _, side := range []struct {
		*Link
		lost chan error
	}{{e.node, lost[0]}, {e.agent, lost[1]}} {
		if err := <-side.lost; !errors.Is(err, errSilent) {
			t.Errorf("lost by %v", err)
		}
		<-side.Done()
		if err := side.Err(); !errors.Is(err, errSilent) {
			t.Errorf("ended by %v", err)
		}
	}
	if _, err := node.Read(make([]byte, 1)); err == nil {
		t.Error("its streams go on")
	}
}

// TestAgentOpensFewByQUIC: an agent can't open more streams than a node takes.
func TestAgentOpensFewByQUIC(t *testing.T) {
	e := byQUIC(t, Config{}, Config{})
	e.run(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	opened := 0
	for ; opened < 100; opened++ {
		st, err := e.agent.Open(ctx)
		if err != nil {
			break
		}
		_, err = st.Write([]byte("x"))
		check(t, err)
	}
	if opened > ofAgent {
		t.Errorf("%d streams were opened", opened)
	}
	node, agent := e.stream(t)
	check(t, errors.Join(node.Close(), agent.Close()))
}

// TestHostileStreams: a peer that breaks QUIC's rules or limits loses its connection, and the
// listener serves on.
func TestHostileStreams(t *testing.T) {
	cfg, d := certified(t, QUIC)
	l, address := quicPort(t, cfg)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			q, err := l.Accept(context.WithoutCancel(t.Context()))
			if err != nil {
				return
			}
			_, _ = AcceptQUIC(t.Context(), q, 100*time.Millisecond) // who opens no stream is closed
		}
	})
	defer func() {
		_ = l.Close()
		accepting.Wait()
	}()
	dial := func() *quic.Conn {
		q, err := quic.DialAddr(t.Context(), address, d.config("localhost"), nil)
		check(t, err)
		return q
	}
	hostile := dial()
	if _, err := hostile.OpenUniStream(); err == nil {
		t.Error("a stream in one direction was opened")
	}
	for range ofAgent {
		st, err := hostile.OpenStream()
		check(t, err)
		_, err = st.Write([]byte("x"))
		check(t, err)
	}
	if _, err := hostile.OpenStream(); err == nil {
		t.Error("more streams than are allowed were opened")
	}
	check(t, hostile.CloseWithError(7, "bye"))

	mute := dial() // opens nothing
	<-mute.Context().Done()
	if _, err := quic.DialAddr(t.Context(), address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil); err == nil {
		t.Error("a link's port speaks HTTP/3")
	}
	garbage, err := net.Dial("udp", address)
	check(t, err)
	defer garbage.Close()
	for i := range 2000 {
		_, _ = garbage.Write(filler(byte(i), i))
	}
	honest := dial()
	check(t, honest.CloseWithError(0, ""))
}

// TestDatagrams: they keep their borders and reach their stream, also before it is known;
// one that is too large is refused, and what comes for nobody is dropped.
func TestDatagrams(t *testing.T) {
	e := byQUIC(t, Config{}, Config{})
	e.run(t)
	node, agent := e.stream(t)
	got := make(chan string, 100)
	others, otherAgent := e.stream(t)
	otherAgent.(Datagrams).ReceiveDatagrams(func(p []byte) { t.Errorf("%q came for another", p) })
	defer others.Reset()
	for _, p := range []string{"", "one", "three"} {
		check(t, node.(Datagrams).SendDatagram([]byte(p)))
	}
	agent.(Datagrams).ReceiveDatagrams(func(p []byte) { got <- string(p) })
	for _, want := range []string{"", "one", "three"} {
		if p := <-got; p != want {
			t.Errorf("%q, want %q", p, want)
		}
	}
	if err := node.(Datagrams).SendDatagram(make([]byte, 60_000)); !errors.Is(err, ErrDatagramSize) {
		t.Errorf("a large one: %v", err)
	}
	check(t, agent.Reset())
	for range 5 * early {
		check(t, node.(Datagrams).SendDatagram([]byte("for nobody")))
	}
	alive, other := e.stream(t)
	check(t, errors.Join(alive.Close(), other.Close()))
	for _, c := range []*Link{e.agent, e.node} {
		f := &c.carrier.(*quicSession).flows
		f.mu.Lock()
		if len(f.mu.early) > early {
			t.Errorf("%d datagrams wait", len(f.mu.early))
		}
		f.mu.Unlock()
	}
	check(t, e.node.Close())
	if err := others.(Datagrams).SendDatagram([]byte("x")); err == nil || errors.Is(err, ErrDatagramSize) {
		t.Errorf("after the end: %v", err)
	}
}
