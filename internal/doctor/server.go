package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Server is what to examine on a server's machine.
type Server struct {
	Domain           string
	HTTP, HTTPS      string   // addresses; empty: none
	Others           []string // further addresses that it listens on
	TCPHost          string
	TCPFirst, TCPEnd uint16 // ports of tcp endpoints; 0: none
	DataDir          string
	CAFile           string           // the own CA's certificate, in DataDir
	Socket           string           // the admin socket, in DataDir
	Given            []Pair           // certificates in files
	ACME             bool             // certificates come from a CA by themselves
	Resolver         *net.Resolver    // nil: the system's
	Now              func() time.Time // nil: time.Now
}

// Pair is the files of a certificate chain and its key.
type Pair struct{ Cert, Key string }

// Run examines all.
func (s Server) Run(ctx context.Context, r *Report) {
	if s.Resolver == nil {
		s.Resolver = net.DefaultResolver
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	s.names(ctx, r)
	running := s.running(ctx)
	if running {
		r.add("server", OK, "", "it runs")
	} else {
		r.add("server", Skip, "", "it does not run, so its ports are tried instead")
	}
	s.ports(ctx, r, running)
	s.certificates(ctx, r, running)
	s.data(r)
	limits(r)
}

// names looks whether the domain and all names below it lead here.
func (s Server) names(ctx context.Context, r *Report) {
	if s.Domain == "localhost" {
		r.add("domain", Warn, "set --domain to a name of yours that leads here", "the domain is localhost: only this machine reaches names below it")
		return
	}
	apex, err := lookup(ctx, s.Resolver, s.Domain)
	if err != nil {
		r.add("domain", Fail, "add an A or AAAA record for "+s.Domain+" that leads to this machine", "%s: %s", s.Domain, plain(err))
	} else {
		s.here(r, apex)
	}
	below := "doctor-" + uuid.NewString()[:8] + "." + s.Domain
	wild, werr := lookup(ctx, s.Resolver, below)
	switch {
	case werr != nil:
		r.add("wildcard", Fail, "add an A or AAAA record for *."+s.Domain+" that leads to this machine", "%s: %s", below, plain(werr))
	case err == nil && !slices.Equal(apex, wild):
		r.add("wildcard", Warn, "give *."+s.Domain+" the addresses of "+s.Domain, "names below the domain are %s, the domain is %s", strings.Join(wild, ", "), strings.Join(apex, ", "))
	default:
		r.add("wildcard", OK, "", "names below %s are %s", s.Domain, strings.Join(wild, ", "))
	}
}

// here compares addresses with those of this machine.
func (s Server) here(r *Report, addresses []string) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		r.add("domain", OK, "", "%s is %s", s.Domain, strings.Join(addresses, ", "))
		return
	}
	var away []string
	for _, a := range addresses {
		if !slices.ContainsFunc(own, func(o net.Addr) bool {
			n, ok := o.(*net.IPNet)
			return ok && n.IP.String() == a
		}) {
			away = append(away, a)
		}
	}
	if len(away) > 0 {
		r.add("domain", Warn, "correct the record, unless a router or load balancer passes these on to here",
			"%s is %s, of which this machine does not have %s", s.Domain, strings.Join(addresses, ", "), strings.Join(away, ", "))
		return
	}
	r.add("domain", OK, "", "%s is %s, which this machine has", s.Domain, strings.Join(addresses, ", "))
}

func (s Server) running(ctx context.Context) bool {
	c, err := (&net.Dialer{Timeout: stepTimeout}).DialContext(ctx, "unix", s.Socket)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// ports tries to listen where the server would, or to reach it where it does.
func (s Server) ports(ctx context.Context, r *Report, running bool) {
	for _, address := range append([]string{s.HTTP, s.HTTPS}, s.Others...) {
		if address == "" {
			continue
		}
		if running {
			s.reach(ctx, r, address)
			continue
		}
		if err := try(ctx, address); err != nil {
			r.add("port", Fail, portAdvice(err), "%s can't be listened on: %s", address, plain(err))
			continue
		}
		r.add("port", OK, "", "%s is free to listen on", address)
	}
	if s.TCPFirst == 0 || running {
		return
	}
	var taken []string
	for p := int(s.TCPFirst); p <= int(s.TCPEnd); p++ {
		if try(ctx, net.JoinHostPort(s.TCPHost, fmt.Sprint(p))) != nil {
			taken = append(taken, fmt.Sprint(p))
		}
	}
	switch all := int(s.TCPEnd) - int(s.TCPFirst) + 1; {
	case len(taken) == all:
		r.add("tcp ports", Fail, "choose others with --tcp-ports", "none of %d-%d can be listened on", s.TCPFirst, s.TCPEnd)
	case len(taken) > 0:
		r.add("tcp ports", Warn, "choose others with --tcp-ports, or accept that these are never given", "%d of %d are taken: %s", len(taken), all, strings.Join(taken[:min(len(taken), 10)], ", "))
	default:
		r.add("tcp ports", OK, "", "%d-%d are free to listen on", s.TCPFirst, s.TCPEnd)
	}
}

func try(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

func portAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "stop the program that has the port (ss -ltnp tells which), or choose another address"
	case errors.Is(err, syscall.EACCES):
		return "run the server as root, or let it have ports below 1024: setcap cap_net_bind_service=+ep on its binary, or AmbientCapabilities in its unit"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "choose an address that this machine has"
	}
	return "choose another address"
}

// reach connects to an address of the running server: here, and by its public name.
func (s Server) reach(ctx context.Context, r *Report, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if err := s.connect(ctx, net.JoinHostPort(host, port)); err != nil {
		r.add("port", Fail, "see the server's log: does it listen there?", "%s: %s", address, plain(err))
		return
	}
	r.add("port", OK, "", "%s answers", address)
	if address != s.HTTP && address != s.HTTPS || s.Domain == "localhost" || net.ParseIP(host).IsLoopback() {
		return
	}
	if err := s.connect(ctx, net.JoinHostPort(s.Domain, port)); err != nil {
		r.add("reachable", Warn, "open port "+port+" in the firewall of this machine and of its provider; routers often can't be reached from inside, so try from elsewhere too: culvert doctor --server "+s.Domain,
			"%s: %s", net.JoinHostPort(s.Domain, port), plain(err))
		return
	}
	r.add("reachable", OK, "", "%s answers", net.JoinHostPort(s.Domain, port))
}

func (s Server) connect(ctx context.Context, address string) error {
	c, err := (&net.Dialer{Timeout: stepTimeout, Resolver: s.Resolver}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// certificates judges the given certificate or the own CA, and what the running server
// shows.
func (s Server) certificates(ctx context.Context, r *Report, running bool) {
	for _, p := range s.Given {
		s.given(r, p)
	}
	if leaf, err := readCertificate(s.CAFile); err == nil {
		r.certificate("ca", "the own CA's certificate", leaf, s.Now())
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.add("ca", Fail, "restore it from a back-up", "%s: %s", s.CAFile, err)
	}
	if !running || s.HTTPS == "" {
		return
	}
	host, port, err := net.SplitHostPort(s.HTTPS)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	chain, err := presented(ctx, s.Resolver, net.JoinHostPort(host, port), s.Domain, "http/1.1")
	if err != nil {
		r.add("certificate", Warn, "see the server's log", "the server shows none for %s: %s", s.Domain, plain(err))
		return
	}
	r.certificate("certificate", "what the server shows for "+s.Domain, chain[0], s.Now())
}

// given judges a --cert and its --key.
func (s Server) given(r *Report, p Pair) {
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		r.add("certificate", Fail, "give a PEM file with the chain in --cert and its key in --key", "%s", err)
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		r.add("certificate", Fail, "give a PEM file with the chain in --cert", "%s: %s", p.Cert, err)
		return
	}
	r.certificate("certificate", p.Cert, leaf, s.Now())
	for _, name := range []string{s.Domain, "doctor." + s.Domain} {
		if err := leaf.VerifyHostname(name); err != nil && len(s.Given) == 1 && !s.ACME {
			r.add("certificate", Warn, "get one for "+s.Domain+" and *."+s.Domain, "%s is not for %s", p.Cert, name)
		}
	}
	if len(pair.Certificate) == 1 && leaf.Issuer.String() != leaf.Subject.String() {
		r.add("certificate", Warn, "append the CA's intermediate certificates to the file", "%s holds no chain: visitors may not be able to verify it", p.Cert)
	}
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no certificate (PEM)")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Sizes of the data directory's disk, in bytes, and how long one durable write may take.
const (
	diskFail  = 100 << 20
	diskWarn  = 1 << 30
	slowWrite = 50 * time.Millisecond
)

// data looks whether the data directory can be written, and how fast and how much.
func (s Server) data(r *Report) {
	at := s.DataDir
	if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) {
		r.add("data", Skip, "", "%s is not there yet: the first start makes it", s.DataDir)
		for at != filepath.Dir(at) && errors.Is(err, fs.ErrNotExist) {
			at = filepath.Dir(at)
			_, err = os.Stat(at)
		}
		space(r, at)
		return
	}
	took, err := durable(at)
	switch {
	case err != nil:
		r.add("data", Fail, "give the directory to the server's user, or run this as that user", "%s can't be written: %s", at, err)
	case took > slowWrite:
		r.add("data", Warn, "put it on an SSD of this machine: every change of state waits for the disk", "%s: a durable write takes %s", at, round(took))
	default:
		r.add("data", OK, "", "%s: a durable write takes %s", at, round(took))
	}
	space(r, at)
}

// durable measures a small write that reaches the disk: the median of a few.
func durable(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nothing in it
	defer f.Close()           //nolint:errcheck // nothing in it
	var took []time.Duration
	for range 9 {
		began := time.Now()
		if _, err := f.WriteAt(make([]byte, 2300), 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

func space(r *Report, dir string) {
	free, ok := diskFree(dir)
	switch {
	case !ok:
		r.add("disk", Skip, "", "this system does not say how much is free on %s", dir)
	case free < diskFail:
		r.add("disk", Fail, "make room", "%d MiB are free on %s", free>>20, dir)
	case free < diskWarn:
		r.add("disk", Warn, "make room before it is full", "%d MiB are free on %s", free>>20, dir)
	default:
		r.add("disk", OK, "", "%.1f GiB are free on %s", float64(free)/(1<<30), dir)
	}
}
