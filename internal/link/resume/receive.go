package resume

import (
	"encoding/binary"
	"io"
	"sync"
)

// receiving is the state of receiving. All but mu is the reading goroutine's.
type receiving struct {
	t     Transport // that the record at hand comes from
	left  int       // of the record's content
	head  [headerSize + ackSize]byte
	have  int // of head
	asked bool

	changed sync.Cond // signals a change of mu.t or mu.err
	mu      struct {
		sync.Mutex
		t        Transport
		received uint64
		err      error
	}
}

// Read reads bytes of the stream. It waits while there is no transport connection,
// and returns io.EOF when the other side has ended the Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		t, err := c.in.transport()
		if err != nil {
			return 0, err
		}
		n, err := c.receive(t, p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			c.broken(t, err)
		}
	}
}

// transport waits for a transport connection. A record that the last one cut off
// begins anew.
func (in *receiving) transport() (Transport, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.mu.t == nil && in.mu.err == nil {
		in.changed.Wait()
	}
	switch {
	case in.mu.err == ErrPeerClosed: //nolint:errorlint // never wrapped
		return nil, io.EOF
	case in.mu.err != nil:
		return nil, in.mu.err
	}
	if in.t != in.mu.t {
		in.t, in.left, in.have, in.asked = in.mu.t, 0, 0, false
	}
	return in.t, nil
}

// broken judges an error of receiving: it ends the Conn or only its transport
// connection.
func (c *Conn) broken(t Transport, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.t != t {
		return
	}
	if _, ok := err.(*ProtocolError); ok || err == ErrPeerClosed { //nolint:errorlint // made here, never wrapped
		c.endLocked(err)
		return
	}
	c.loseLocked(t, err)
}

// receive reads once from the transport connection and returns how many bytes of the
// stream that brought.
func (c *Conn) receive(t Transport, p []byte) (int, error) {
	in := &c.in
	if in.left == 0 {
		return 0, c.receiveHead(t)
	}
	n, err := t.Read(p[:min(len(p), in.left)])
	if n == 0 {
		return 0, err
	}
	in.mu.Lock()
	if in.mu.t != t { // these bytes were not counted, so they will be sent again
		in.mu.Unlock()
		return 0, nil
	}
	in.mu.received += uint64(n)
	in.mu.Unlock()
	if in.left -= n; in.left == 0 && in.asked {
		in.asked = false
		c.reply(t)
	}
	return n, nil
}

// receiveHead reads what there is of a header, or of an ack, and acts when it is
// whole.
func (c *Conn) receiveHead(t Transport) error {
	in := &c.in
	want := headerSize
	if in.have >= headerSize {
		want += ackSize
	}
	n, err := t.Read(in.head[in.have:want])
	if n == 0 {
		return err
	}
	if in.have += n; in.have < want {
		return nil
	}
	if want == headerSize+ackSize {
		in.have = 0
		return c.onAck(t, binary.BigEndian.Uint64(in.head[headerSize:]))
	}
	c.heard.Store(c.now()) // once for a record: its content comes along with it
	kind, length, err := parseHeader(in.head[:])
	switch {
	case err != nil:
		return err
	case kind == kindAck:
		return nil // and its content
	case kind == kindClose:
		return ErrPeerClosed
	}
	in.have, in.left, in.asked = 0, length, kind == kindAsk
	if in.asked && length == 0 {
		in.asked = false
		c.reply(t)
	}
	return nil
}

func (c *Conn) onAck(t Transport, n uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.t != t {
		return nil
	}
	return c.ackLocked(n, c.mu.next)
}

// reply sends the ack that the other side has asked for.
func (c *Conn) reply(t Transport) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.t == t {
		c.mu.answer = true
		c.pumpAsideLocked()
	}
}

// Ready says whether Read is sure to return something at once.
func (c *Conn) Ready() bool { return c.in.t != nil && c.in.t.Ready(c.in.left > 0) }

// Joins says that short writes become one record.
func (c *Conn) Joins() bool { return true }
