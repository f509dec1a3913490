package resume

import (
	"encoding/binary"
	"syscall"
)

// sending is the state of sending. It is part of Conn.mu.
type sending struct {
	ring    ring
	next    uint64 // position of the first byte that the transport connection was not given
	sent    uint64 // the greatest that next ever was
	asked   uint64 // the last ack that was asked for is of so many bytes
	cursor  cursor // near next
	blocked bool   // the transport connection takes no more at once
	answer  bool   // the other side has asked for an ack
	pumping bool   // somebody waits for the transport connection, and will send what there is
}

const (
	// askEvery is how many bytes may be sent before an ack is asked for.
	askEvery = 1 << 20
	// burst is how many bytes the transport connection is given before it is asked
	// whether it can send them.
	burst = 64 << 10
)

// Write takes all of p and does not block. What is written beyond a full ring is
// taken too, but Flush does not return as done until there is room.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return 0, c.writeErrorLocked()
	}
	c.mu.ring.add(p)
	c.giveEarlyLocked()
	return len(p), nil
}

// KeepRoom is how many bytes Keep needs for itself before what it is to write.
const KeepRoom = headerSize

// Keep does what Write does for what follows the first KeepRoom bytes of b, without a copy:
// b is the Conn's until it calls done, which it does also if it fails.
func (c *Conn) Keep(b []byte, done func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		done()
		return c.writeErrorLocked()
	}
	c.mu.ring.keep(b, done)
	c.giveEarlyLocked()
	return nil
}

// giveEarlyLocked sends while there is more to come.
func (c *Conn) giveEarlyLocked() {
	if !c.mu.pumping && !c.mu.blocked && c.mu.t != nil && c.mu.ring.end-c.mu.next >= maxData {
		if err := c.giveLocked(c.mu.t, false); err != nil {
			c.loseLocked(c.mu.t, err)
		}
	}
}

// Flush sends what can be sent of what was written. While there is no transport
// connection it is not done, and with wait it blocks.
func (c *Conn) Flush(wait bool) (n int, done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.mu.next
	for {
		if c.mu.err != nil {
			return 0, false, c.writeErrorLocked()
		}
		sent := false
		if !c.mu.pumping {
			sent = c.pumpLocked(wait)
		}
		full := c.mu.ring.full(c.cfg.Keep)
		switch {
		case c.mu.err != nil:
		case sent && !full || !wait:
			n := max(int64(c.mu.next-before), 0) //nolint:gosec // less than the ring holds
			return int(n), sent && !full, nil
		case sent && c.mu.asked <= c.mu.ring.begin:
			c.askLocked(c.mu.t)
		default:
			c.mu.changed.Wait()
		}
	}
}

// writeErrorLocked is the error of writing to a Conn that has ended.
func (c *Conn) writeErrorLocked() error {
	if c.mu.err == ErrPeerClosed { //nolint:errorlint // never wrapped
		return syscall.EPIPE
	}
	return c.mu.err
}

// giveLocked gives the transport connection what was written, in whole records or, with
// all, to the last byte, until it can't send more.
func (c *Conn) giveLocked(t Transport, all bool) error {
	given := 0
	for c.mu.next < c.mu.ring.end && !c.mu.blocked {
		r := &c.mu.ring
		r.at(&c.mu.cursor, c.mu.next)
		ch := c.mu.cursor.c
		from := int(c.mu.next - c.mu.cursor.base) //nolint:gosec // within a chunk
		if ch.next == nil && !ch.full() && !all {
			return nil
		}
		to := min(ch.n, from+maxData)
		if err := c.recordLocked(t, ch.b[:headerSize+to], from); err != nil {
			return err
		}
		if given += to - from; given >= burst {
			given = 0
			_, done, err := t.Flush(false)
			if err != nil {
				return err
			}
			c.mu.blocked = !done
		}
	}
	return nil
}

// recordLocked sends a chunk's bytes from that index on as one record. Its header
// is written over the bytes before, which are put back: so neither header nor bytes
// are copied once more to get side by side.
func (c *Conn) recordLocked(t Transport, b []byte, from int) error {
	n := len(b) - headerSize - from
	c.mu.next += uint64(n) //nolint:gosec // not negative
	c.mu.sent = max(c.mu.sent, c.mu.next)
	kind := byte(kindData)
	if c.mu.next-c.mu.asked >= askEvery || c.mu.ring.full(c.cfg.Keep) && c.mu.asked <= c.mu.ring.begin {
		kind, c.mu.asked = kindAsk, c.mu.next
	}
	record := b[from:]
	var before [headerSize]byte
	copy(before[:], record)
	putHeader(record, kind, n)
	_, err := t.Write(record)
	copy(record, before[:])
	return err
}

// pumpLocked sends everything: what was written, and the ack that the other side asked
// for. With wait it blocks, with the lock released, until that is done or the transport
// connection is gone. It reports whether all is sent.
func (c *Conn) pumpLocked(wait bool) bool {
	c.mu.pumping = true
	defer func() {
		c.mu.pumping = false
		if wait {
			c.mu.changed.Broadcast()
		}
	}()
	for {
		t := c.mu.t
		if t == nil {
			return false
		}
		done, err := c.pushLocked(t)
		if err != nil {
			c.loseLocked(t, err)
			return false
		}
		if done || !wait {
			return done
		}
		c.mu.Unlock()
		n, _, err := t.Flush(true)
		c.mu.Lock()
		if c.mu.t == t {
			c.mu.blocked = false
			c.mu.flushed += int64(n)
			if err != nil {
				c.loseLocked(t, err)
			}
		}
	}
}

// pushLocked sends what can be sent at once.
func (c *Conn) pushLocked(t Transport) (done bool, err error) {
	if c.mu.blocked {
		_, done, err := t.Flush(false)
		if c.mu.blocked = !done; c.mu.blocked || err != nil {
			return false, err
		}
	}
	if c.mu.answer {
		c.mu.answer = false
		if err := c.sendAckLocked(t); err != nil {
			return false, err
		}
	}
	if err := c.giveLocked(t, true); err != nil {
		return false, err
	}
	_, done, err = t.Flush(false)
	c.mu.blocked = !done
	return done && c.mu.next == c.mu.ring.end, err
}

func (c *Conn) sendAckLocked(t Transport) error {
	c.in.mu.Lock()
	received := c.in.mu.received
	c.in.mu.Unlock()
	var b [headerSize + ackSize]byte
	putHeader(b[:], kindAck, ackSize)
	binary.BigEndian.PutUint64(b[headerSize:], received)
	_, err := t.Write(b[:])
	return err
}

// pumpAsideLocked sees to it that everything is sent though no writer may come.
func (c *Conn) pumpAsideLocked() {
	if c.mu.pumping || c.mu.err != nil {
		return // whoever pumps sends this too
	}
	if c.pumpLocked(false) || c.mu.t == nil || c.mu.err != nil {
		return
	}
	c.mu.pumping = true
	c.tasks.Go(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pumpLocked(true)
	})
}

// ackLocked notes that the other side has received so many bytes, of at most so many.
func (c *Conn) ackLocked(n, most uint64) error {
	switch {
	case n > most:
		return &ProtocolError{Reason: "acknowledged bytes that were never sent"}
	case n < c.mu.ring.begin:
		return &ProtocolError{Reason: "has forgotten bytes that it had acknowledged"}
	}
	c.mu.ring.drop(n)
	c.mu.changed.Broadcast()
	return nil
}

// askLocked asks for an ack, which is a sign of life too, unless there is so much under
// way that it asks itself.
func (c *Conn) askLocked(t Transport) {
	if c.mu.pumping || c.mu.blocked {
		return
	}
	var b [headerSize]byte
	putHeader(b[:], kindAsk, 0)
	c.mu.asked = c.mu.next
	if _, err := t.Write(b[:]); err != nil {
		c.loseLocked(t, err)
		return
	}
	c.pumpAsideLocked()
}
