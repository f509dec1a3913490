package datagram

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// decode collects the datagrams in b, given in pieces of n bytes.
func decode(b []byte, n int) [][]byte {
	var got [][]byte
	d := Decoder{Each: func(p []byte) { got = append(got, bytes.Clone(p)) }}
	for len(b) > 0 {
		m := min(n, len(b))
		_, _ = d.Write(b[:m])
		b = b[m:]
	}
	return got
}

func TestBordersSurvive(t *testing.T) {
	var stream []byte
	want := []string{"", "a", strings.Repeat("b", MaxSize), "", "cd", strings.Repeat("e", 300)}
	for _, w := range want {
		stream = Append(stream, []byte(w))
	}
	for _, n := range []int{1, 2, 3, 7, 4096, len(stream)} {
		got := decode(append(stream, 0xff), n) // and the beginning of another one
		if len(got) != len(want) {
			t.Fatalf("pieces of %d: %d datagrams, want %d", n, len(got), len(want))
		}
		for i := range want {
			if string(got[i]) != want[i] {
				t.Errorf("pieces of %d: datagram %d has %d bytes, want %d", n, i, len(got[i]), len(want[i]))
			}
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(Append(Append(nil, []byte("one")), nil), 1)
	f.Add([]byte{0xff, 0xff, 1, 2, 3}, 2)
	f.Add([]byte{0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = max(n, 1)
		pieces, whole := decode(b, n), decode(b, len(b)+1)
		if len(pieces) != len(whole) {
			t.Fatalf("%d datagrams in pieces of %d, %d at once", len(pieces), n, len(whole))
		}
		var again []byte
		for i := range whole {
			if !bytes.Equal(pieces[i], whole[i]) {
				t.Fatalf("datagram %d differs", i)
			}
			again = Append(again, whole[i])
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("the datagrams are not what was sent")
		}
		d := Decoder{Each: func([]byte) {}}
		_, _ = d.Write(b)
		if cap(d.partial) > 2*len(b)+64 {
			t.Fatalf("%d bytes held for %d received", cap(d.partial), len(b))
		}
	})
}

func TestQueueDropsTheOldest(t *testing.T) {
	budget := NewBudget(1 << 20)
	q := NewQueue(budget)
	const n = 1000
	body := func(i int) []byte { return fmt.Appendf(nil, "%04d%s", i, strings.Repeat("x", 1000)) }
	for i := range n {
		q.Push(body(i))
	}
	dropped := int(q.Dropped())
	if room := QueueSize / 1006; dropped != n-room {
		t.Fatalf("%d dropped, want all but %d", dropped, room)
	}
	if used := budget.used.Load(); used != int64(n-dropped)*1006 {
		t.Errorf("the budget has %d in use", used)
	}
	next := dropped
	d := Decoder{Each: func(p []byte) {
		if !bytes.Equal(p, body(next)) {
			t.Fatalf("got %.4s, want %d", p, next)
		}
		if next++; next == n {
			q.Close()
		}
	}}
	if _, err := q.WriteTo(&d); err != nil {
		t.Fatal(err)
	}
	if used := budget.used.Load(); next != n || used != 0 {
		t.Errorf("%d left at the end, %d in use", n-next, used)
	}
	q.Push([]byte("late")) // goes nowhere
}

func TestBudgetIsShared(t *testing.T) {
	budget := NewBudget(100)
	a, b := NewQueue(budget), NewQueue(budget)
	a.Push(make([]byte, 70))
	b.Push(make([]byte, 70))
	if a.Dropped() != 0 || b.Dropped() != 1 {
		t.Errorf("dropped %d and %d", a.Dropped(), b.Dropped())
	}
	a.Close()
	b.Push(make([]byte, 70))
	if b.Dropped() != 1 {
		t.Error("closing a queue gave nothing back")
	}
}

// failing takes some writes, then none.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestQueueEndsWithItsStream(t *testing.T) {
	q := NewQueue(nil)
	defer q.Close()
	go func() {
		for range 10 {
			q.Push(make([]byte, MaxSize)) // each a write of its own
		}
	}()
	if _, err := q.WriteTo(&failing{left: 2}); !errors.Is(err, errFull) {
		t.Errorf("ended with %v", err)
	}
}

func TestReceive(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	to := c.LocalAddr()
	go func() {
		for i := range n {
			_, _ = server.WriteTo(fmt.Append(nil, i), to)
		}
	}()
	next := 0
	ended := Receive(c, func(p []byte) {
		if string(p) != fmt.Sprint(next) {
			t.Errorf("got %q, want %d", p, next)
		}
		if next++; next == n {
			_ = c.Close()
		}
	})
	if !errors.Is(ended, net.ErrClosed) || next != n {
		t.Errorf("%d datagrams, then %v", next, ended)
	}

	// A port that is closed is told by ICMP.
	c, err = net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	_, _ = c.Write([]byte("x"))
	if err := Receive(c, func([]byte) {}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused shows as %v", err)
	}
	_ = c.Close()

	left, right := net.Pipe() // what is no socket is read all the same
	go func() {
		_, _ = right.Write([]byte("piped"))
		_ = right.Close()
	}()
	got := ""
	if err := Receive(left, func(p []byte) { got = string(p) }); !errors.Is(err, io.EOF) || got != "piped" {
		t.Errorf("got %q, then %v", got, err)
	}
}
