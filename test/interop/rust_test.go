package interop

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-tunnel/culvert/internal/splice"
)

// rustProgram builds the other side in Rust.
func rustProgram(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("cargo"); err != nil {
		t.Fatal("cargo is missing: install it (test/install-deps does, on Debian)")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	target := filepath.Join(cache, "culvert-test-rust")
	build := exec.CommandContext(t.Context(), "cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target)
	build.Dir = "rust"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cargo build: %v\n%s", err, out)
	}
	return filepath.Join(target, "release", "interop")
}

// TestRust runs us against rust-yamux: both roles, 200 streams each way with
// half-closes, and resets, plain and over TLS.
func TestRust(t *testing.T) {
	program := rustProgram(t)
	for _, secure := range []bool{false, true} {
		for _, weDial := range []bool{true, false} {
			t.Run(fmt.Sprintf("tls=%v/we-dial=%v", secure, weDial), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				conn, asked, wait := startRust(ctx, t, program, weDial)
				var tasks sync.WaitGroup
				if secure {
					conn = throughTLS(ctx, t, &tasks, conn)
				}
				s := ours(t, conn, weDial)
				tasks.Go(func() { answerRust(ctx, t, s) })
				askRust(ctx, t, s)
				<-asked
				s.close()
				tasks.Wait()
				wait()
			})
		}
	}
}

// throughTLS returns a TLS connection whose other end is joined to conn, as a TLS
// terminator in front of the program would.
func throughTLS(ctx context.Context, t *testing.T, tasks *sync.WaitGroup, conn net.Conn) net.Conn {
	t.Helper()
	ours, theirs := connect(t, true)
	tasks.Go(func() { _, _ = splice.Join(ctx, theirs, conn, splice.Config{}) })
	return ours
}

// startRust starts the program and connects. asked is closed when it has had all
// its answers.
func startRust(ctx context.Context, t *testing.T, program string, weDial bool) (conn net.Conn, asked <-chan struct{}, wait func()) {
	t.Helper()
	role, address := "server", "127.0.0.1:0"
	var ln net.Listener
	var err error
	if !weDial {
		if ln, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		role, address = "client", ln.Addr().String()
	}
	cmd := exec.CommandContext(ctx, program, role, address)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if weDial {
		if !lines.Scan() {
			t.Fatalf("no address: %s", complaints.String())
		}
		conn, err = net.Dial("tcp", lines.Text())
	} else {
		conn, err = ln.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(done)
		for lines.Scan() {
			if lines.Text() == "asked" {
				return
			}
		}
	}()
	return conn, done, func() {
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program in Rust: %v\n%s", err, complaints.String())
		}
	}
}

const dropped = 1<<32 - 1 // number of a stream that is to be reset

// askRust opens 200 streams that are answered and 20 that are dropped.
func askRust(ctx context.Context, t *testing.T, s session) {
	var tasks sync.WaitGroup
	gate := make(chan struct{}, 100)
	for i := range 220 {
		gate <- struct{}{}
		tasks.Go(func() {
			defer func() { <-gate }()
			st, err := s.open(ctx)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			if i < 200 {
				askNumbered(t, st, i)
				return
			}
			defer st.Close()
			head := binary.BigEndian.AppendUint32(nil, dropped)
			if _, err := st.Write(append(head, 0, 0, 0, 0)); err != nil {
				t.Errorf("write: %v", err)
			}
			if n, err := st.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes from who dropped the stream", n)
			}
		})
	}
	tasks.Wait()
}

func askNumbered(t *testing.T, st stream, number int) {
	data := payload(size(number), number)
	head := binary.BigEndian.AppendUint32(nil, uint32(number))
	head = binary.BigEndian.AppendUint32(head, uint32(len(data)))
	converse(t, st, head, data, number)
}

// answerRust answers what the program opens, and resets what it wants reset.
func answerRust(ctx context.Context, t *testing.T, s session) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	for {
		st, err := s.accept(ctx)
		if err != nil {
			return
		}
		tasks.Go(func() {
			head := make([]byte, 8)
			if _, err := io.ReadFull(st, head); err != nil {
				t.Errorf("read head: %v", err)
				return
			}
			number := binary.BigEndian.Uint32(head)
			if number == dropped {
				s.reset(st)
				return
			}
			answerRest(t, st, number%2 == 1, int(binary.BigEndian.Uint32(head[4:])))
		})
	}
}
