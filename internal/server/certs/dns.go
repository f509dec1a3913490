package certs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// DNS says how to answer DNS-01 challenges, by which the domain gets a wildcard
// certificate. At most one of Server and Exec is set; with neither there is no DNS-01.
type DNS struct {
	Server    string   // host or host:port of the primary server, for dynamic updates (RFC 2136)
	KeyFile   string   // file with the TSIG key, as tsig-keygen prints it; empty: updates are not signed
	Exec      []string // a program with its first arguments, which makes and removes records
	Resolvers []string // host:port of the servers that are asked whether a record has spread; default: the zone's own
}

// newProvider returns what makes records, nil without configuration. Other providers
// of libdns fit here.
func newProvider(cfg DNS) (certmagic.DNSProvider, error) {
	switch {
	case cfg.Server != "" && len(cfg.Exec) > 0:
		return nil, errors.New("give either a DNS server or a program for DNS-01, not both")
	case cfg.Server != "":
		return newRFC2136(cfg.Server, cfg.KeyFile)
	case cfg.KeyFile != "":
		return nil, errors.New("a DNS key needs the DNS server it is for")
	case len(cfg.Exec) > 0:
		path, err := exec.LookPath(cfg.Exec[0])
		if err != nil {
			return nil, fmt.Errorf("find the program for DNS-01: %w", err)
		}
		return &execProvider{path: path, args: cfg.Exec[1:]}, nil
	case len(cfg.Resolvers) > 0:
		return nil, errors.New("DNS resolvers are of use only with a DNS server or a program for DNS-01")
	}
	return nil, nil //nolint:nilnil // not configured
}

// rfc2136 makes records by dynamic update (RFC 2136), signed with TSIG (RFC 8945).
type rfc2136 struct {
	server                     string
	key, algorithm, tsigSecret string // key is empty: not signed
}

// updateTimeout bounds one exchange with the server.
const updateTimeout = 10 * time.Second

func newRFC2136(server, keyFile string) (*rfc2136, error) {
	p := &rfc2136{server: server}
	if _, _, err := net.SplitHostPort(server); err != nil {
		p.server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	if keyFile == "" {
		return p, nil
	}
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the DNS key: %w", err)
	}
	if p.key, p.algorithm, p.tsigSecret, err = parseKey(string(b)); err != nil {
		return nil, fmt.Errorf("read the DNS key from %s: %w", keyFile, err)
	}
	return p, nil
}

var (
	keyForm   = regexp.MustCompile(`(?s)\bkey\s+"?([A-Za-z0-9._-]+)"?\s*\{(.*?)\}`)
	fieldForm = regexp.MustCompile(`\b(algorithm|secret)\s+"?([A-Za-z0-9+/=._-]+)"?\s*;`)
)

// errKeyForm says what a key's file looks like.
var errKeyForm = errors.New(`it is no TSIG key: it looks like key "name" { algorithm hmac-sha256; secret "…"; }; and tsig-keygen makes it`)

// parseKey reads a key as BIND writes it.
func parseKey(text string) (name, algorithm, secret string, err error) {
	m := keyForm.FindStringSubmatch(text)
	if m == nil {
		return "", "", "", errKeyForm
	}
	for _, f := range fieldForm.FindAllStringSubmatch(m[2], -1) {
		if f[1] == "secret" {
			secret = f[2]
		} else {
			algorithm = dns.Fqdn(strings.ToLower(f[2]))
		}
	}
	switch algorithm {
	case dns.HmacSHA1, dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
	default:
		return "", "", "", errKeyForm
	}
	if secret == "" {
		return "", "", "", errKeyForm
	}
	return dns.CanonicalName(m[1]), algorithm, secret, nil
}

// AppendRecords implements libdns.RecordAppender.
func (p *rfc2136) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.update(ctx, zone, records, (*dns.Msg).Insert)
}

// DeleteRecords implements libdns.RecordDeleter.
func (p *rfc2136) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.update(ctx, zone, records, (*dns.Msg).Remove)
}

func (p *rfc2136) update(ctx context.Context, zone string, records []libdns.Record, how func(*dns.Msg, []dns.RR)) error {
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(zone))
	for _, r := range records {
		rr := r.RR()
		if rr.Type != "TXT" {
			return fmt.Errorf("a record of type %s is none of a challenge", rr.Type)
		}
		how(m, []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{Name: dns.Fqdn(libdns.AbsoluteName(rr.Name, zone)), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(max(rr.TTL.Seconds(), 60))}, //nolint:gosec // seconds
			Txt: []string{rr.Data},
		}})
	}
	// Over TCP, since an update that is sent again because its answer was lost would
	// be judged again.
	client := &dns.Client{Net: "tcp", Timeout: updateTimeout}
	if p.key != "" {
		client.TsigSecret = map[string]string{p.key: p.tsigSecret}
		m.SetTsig(p.key, p.algorithm, 300, time.Now().Unix())
	}
	answer, _, err := client.ExchangeContext(ctx, m, p.server)
	if err != nil {
		return fmt.Errorf("update %s at %s: %w", zone, p.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("update %s at %s: the server refused it: %s", zone, p.server, dns.RcodeToString[answer.Rcode])
	}
	return nil
}

// execProvider has a program make records. It is run as
//
//	program [args] present|cleanup _acme-challenge.example.com.
//
// with the record's value as a line on stdin, where no list of processes shows it,
// and in the server's environment. An exit code other than 0 is a failure.
type execProvider struct {
	path string
	args []string
}

// Limits of a run of the program.
const (
	execTimeout = 2 * time.Minute
	execOutput  = 1024 // bytes of its last line of output that go into an error
)

// AppendRecords implements libdns.RecordAppender.
func (p *execProvider) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.run(ctx, "present", zone, records)
}

// DeleteRecords implements libdns.RecordDeleter.
func (p *execProvider) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.run(ctx, "cleanup", zone, records)
}

func (p *execProvider) run(ctx context.Context, action, zone string, records []libdns.Record) error {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	for _, r := range records {
		rr := r.RR()
		args := append(slices.Clip(p.args), action, dns.Fqdn(libdns.AbsoluteName(rr.Name, zone)))
		cmd := exec.CommandContext(ctx, p.path, args...) //nolint:gosec // the operator's program
		cmd.Stdin = strings.NewReader(rr.Data + "\n")
		endGroup(cmd)
		cmd.WaitDelay = 5 * time.Second // for what got away with its output open
		var said lastLine
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", p.path, action, err, said.String())
		}
	}
	return nil
}

// lastLine keeps the end of what is written to it.
type lastLine struct{ b []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if len(l.b) > execOutput {
		l.b = l.b[len(l.b)-execOutput:]
	}
	return len(p), nil
}

func (l *lastLine) String() string {
	last := ""
	for s := bufio.NewScanner(strings.NewReader(string(l.b))); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			last = line
		}
	}
	return tunnel.Clean(last)
}
