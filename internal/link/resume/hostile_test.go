package resume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// record encodes a record as a peer may that keeps no rule.
func record(kind byte, length int, content []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(content))
	putHeader(b, kind, length)
	return append(b, content...)
}

func ack(n uint64) []byte {
	return record(kindAck, ackSize, binary.BigEndian.AppendUint64(nil, n))
}

// peer gives f a Conn and the bare other end of its transport connection.
func peer(t *testing.T, f func(t *testing.T, c *Conn, other net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		mine, other := net.Pipe()
		c := New(Plain(mine), Config{})
		f(t, c, other)
		_, _ = c.Close(), other.Close()
	})
}

// TestBrokenRules: a peer that breaks one ends the Conn, and learns nothing of what is
// kept for it.
func TestBrokenRules(t *testing.T) {
	for name, sent := range map[string][]byte{
		"ack of bytes never sent":       ack(11),
		"ack of all bytes there can be": ack(1<<64 - 1),
		"ack counts backwards":          append(ack(7), ack(6)...),
		"data of nothing":               record(kindData, 0, nil),
		"data too long":                 record(kindData, maxData+1, nil),
		"data as long as can be":        record(kindData, 1<<24-1, nil),
		"ask too long":                  record(kindAsk, maxData+1, nil),
		"short ack":                     record(kindAck, 7, make([]byte, 7)),
		"long ack":                      record(kindAck, 9, make([]byte, 9)),
		"close with content":            record(kindClose, 1, []byte{0}),
		"unknown kind":                  record(4, 0, nil),
		"last kind":                     record(255, 16, make([]byte, 16)),
	} {
		t.Run(name, func(t *testing.T) {
			peer(t, func(t *testing.T, c *Conn, other net.Conn) {
				go func() { _, _ = io.Copy(io.Discard, other) }()
				if _, err := c.Write(make([]byte, 10)); err != nil {
					t.Fatal(err)
				}
				if _, done, err := c.Flush(true); !done || err != nil {
					t.Fatal(done, err)
				}
				go func() { _, _ = other.Write(sent) }()
				_, err := c.Read(make([]byte, 100))
				if _, ok := errors.AsType[*ProtocolError](err); !ok {
					t.Errorf("read: %v", err)
				}
				if _, _, err := c.Detach(); err == nil {
					t.Error("it could be resumed")
				}
			})
		})
	}
}

// TestBadCounts: a Hello or Welcome that claims what can't be ends the Conn.
func TestBadCounts(t *testing.T) {
	for name, theirs := range map[string]uint64{"more than was sent": 11, "all there can be": 1<<64 - 1, "less than was acknowledged": 3} {
		t.Run(name, func(t *testing.T) {
			peer(t, func(t *testing.T, c *Conn, other net.Conn) {
				go func() { _, _ = io.Copy(io.Discard, other) }()
				_, _ = c.Write(make([]byte, 10))
				if _, _, err := c.Flush(true); err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = c.Read(make([]byte, 1)) }()
				if _, err := other.Write(ack(4)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				_, claim, err := c.Detach()
				if err != nil {
					t.Fatal(err)
				}
				a, b := net.Pipe()
				defer b.Close()
				defer a.Close()
				var broken *ProtocolError
				if err := c.Attach(claim, Plain(a), theirs); !errors.As(err, &broken) {
					t.Errorf("attach: %v", err)
				}
			})
		})
	}
}

// TestOlderClaim: of two connections that come for one Conn the one that claimed it last
// has it.
func TestOlderClaim(t *testing.T) {
	peer(t, func(t *testing.T, c *Conn, _ net.Conn) {
		_, older, err := c.Detach()
		if err != nil {
			t.Fatal(err)
		}
		_, newer, err := c.Detach()
		if err != nil {
			t.Fatal(err)
		}
		a, b := net.Pipe()
		defer b.Close()
		if err := c.Attach(older, Plain(a), 0); !errors.Is(err, ErrOutdated) {
			t.Errorf("older: %v", err)
		}
		if err := c.Attach(newer, Plain(a), 0); err != nil {
			t.Errorf("newer: %v", err)
		}
	})
}

// ending is a connection whose reading side ends when over is closed.
type ending struct {
	net.Conn
	over chan struct{}
}

func (e ending) Read([]byte) (int, error) {
	<-e.over
	return 0, io.EOF
}

// TestCloseIsNoLoss: a side that says goodbye, and whose connection ends over that, does
// not ask for another connection.
func TestCloseIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, other := net.Pipe()
		defer other.Close()
		over := make(chan struct{})
		c := New(Plain(ending{mine, over}), Config{})
		go func() { _, _ = c.Read(make([]byte, 1)) }()
		go func() { _ = c.Close() }()
		if _, err := io.ReadFull(other, make([]byte, headerSize-1)); err != nil {
			t.Fatal(err)
		}
		close(over) // before the last byte is taken
		synctest.Wait()
		select {
		case <-c.Lost():
			t.Error("it asks")
		case <-c.Done():
		}
	})
}

// TestManyAsks: a peer that asks and asks, and takes no answer, costs no memory.
func TestManyAsks(t *testing.T) {
	peer(t, func(t *testing.T, c *Conn, other net.Conn) {
		go func() { _, _ = c.Read(make([]byte, 1)) }()
		asks := bytes.Repeat(record(kindAsk, 0, nil), 1000)
		_ = other.SetWriteDeadline(time.Now().Add(time.Minute))
		for range 100 {
			if _, err := other.Write(asks); err != nil {
				break // given up for its silence: it took nothing
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if p, ok := c.mu.last.(*plain); ok {
			p.mu.Lock()
			if len(p.mu.out) > 1<<10 {
				t.Errorf("%d bytes of answers wait", len(p.mu.out))
			}
			p.mu.Unlock()
		}
	})
}

// FuzzRecords: whatever comes, nothing panics, nothing hangs, and only bytes of data
// records come out.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{})
	f.Add(record(kindData, 5, []byte("hello")))
	f.Add(append(record(kindAsk, 5, []byte("hello")), ack(0)...))
	f.Add(append(ack(0), record(kindClose, 0, nil)...))
	f.Add(record(kindData, 1<<24-1, nil))
	f.Fuzz(func(t *testing.T, sent []byte) {
		mine, other := net.Pipe()
		c := New(Plain(mine), Config{Window: time.Nanosecond})
		go func() { _, _ = io.Copy(io.Discard, other) }()
		go func() {
			_, _ = other.Write(sent)
			_ = other.Close()
		}()
		got, err := io.ReadAll(c)
		_ = c.Close()
		if len(got) > len(sent) {
			t.Errorf("%d bytes of %d", len(got), len(sent))
		}
		var broken *ProtocolError
		if err != nil && !errors.Is(err, ErrLost) && !errors.As(err, &broken) {
			t.Errorf("ended with %v", err)
		}
	})
}
