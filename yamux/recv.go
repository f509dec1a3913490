package yamux

import "sync"

// recvHalf is the receiving half of a stream. Its lock guards all of it.
type recvHalf struct {
	sync.Mutex
	cond       sync.Cond
	head, tail *chunk
	err        error // why no more comes than what is in the chunks
	deadline   *deadline
	spent      bool // nobody reads any more: Close or Reset
	taken      bool // WriteTo has chunks that it took
	enlarged   bool // the first window, or it was large enough for the first half of it

	sink   sink   // takes short messages while WriteTo is parked
	most   int64  // bytes the sink may still take; with none left WriteTo wakes up
	busy   bool   // the sink is being written to
	sunk   int64  // bytes the sink took since WriteTo parked
	parked *mover // is run by who would wake WriteTo; nil: there is none that waits

	lost       uint32 // room in chunks that others are linked behind
	window     uint32 // credit that the other side has
	size       uint32 // what the credit is renewed to
	consumed   uint32 // bytes read since the last renewal
	epoch      int64  // Session.now when the rate began to be measured
	epochBytes uint32 // given as credit since
}

// sink is a destination that can be written to without blocking.
type sink interface {
	// try writes what the destination takes at once and returns how much.
	try(p []byte) int
	// tryChunks does the same with chunks.
	tryChunks(list *chunk) int
	// write writes all that is in the chunks.
	write(list *chunk) (int64, error)
}

// verdict on a payload, before it is read.
type verdict int

const (
	admitted verdict = iota
	ignored          // the stream has ended; nobody cares
	unwanted         // the stream is closed here: the other side should be told
	exceeds          // more than its credit
)

func (st *Stream) admit(n uint32) verdict {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	switch {
	case n > r.window:
		return exceeds
	case r.err != nil:
		return ignored
	case r.spent:
		return unwanted
	}
	r.window -= n
	return admitted
}

// deliver takes a copy of b, which was admitted, or has the sink take it, and
// returns the credit to give for that.
func (st *Stream) deliver(b []byte) uint32 {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	st.chatsLocked()
	var credit uint32
	if st.sinkableLocked(len(b)) {
		n := st.sinkLocked(func(to sink) int { return to.try(b) })
		credit = st.consumeLocked(n)
		if b = b[n:]; len(b) == 0 && st.parkedLocked() {
			return credit
		}
	}
	r.Broadcast() // also for who waited while busy
	if st.droppingLocked() {
		return credit + st.consumeLocked(len(b))
	}
	r.copyLocked(b)
	return credit
}

// sinkableLocked reports whether WriteTo is parked with a sink that may take n bytes, and
// nothing is ahead of what comes.
func (st *Stream) sinkableLocked(n int) bool {
	r := &st.recv
	return r.sink != nil && r.head == nil && int64(n) <= r.most
}

// sinkLocked has the sink take what it can, without the lock. WriteTo stays parked
// as long as busy is set, so the destination is ours meanwhile.
func (st *Stream) sinkLocked(try func(sink) int) int {
	r := &st.recv
	to := r.sink
	r.busy = true
	r.Unlock()
	n := try(to)
	r.Lock()
	r.busy = false
	r.sunk += int64(n)
	r.most -= int64(n)
	return n
}

// parkedLocked reports whether WriteTo has no reason to wake up.
func (st *Stream) parkedLocked() bool {
	return !st.droppingLocked() && !st.recv.deadline.passed() && st.recv.most > 0
}

// droppingLocked reports whether nobody wants what comes.
func (st *Stream) droppingLocked() bool { return st.recv.spent || st.recv.err != nil }

// copyLocked copies b into the last chunk and new ones.
func (r *recvHalf) copyLocked(b []byte) {
	for len(b) > 0 {
		if r.tail == nil || r.tail.w == len(r.tail.b) {
			size := len(b)
			if r.head != r.tail {
				size = max(size, mediumChunk) // nobody keeps up: few chunks rather than fitting ones
			}
			c := newChunk(size)
			r.linkLocked(c)
		}
		n := copy(r.tail.b[r.tail.w:], b)
		r.tail.w += n
		b = b[n:]
	}
}

func (r *recvHalf) linkLocked(c *chunk) {
	if r.tail == nil {
		r.head = c
	} else {
		r.lost += r.tail.room()
		r.tail.next = c
	}
	r.tail = c
}

// wastefulLocked reports whether the room in the last chunk, which is lost when
// another is linked behind it, is too much to lose. Bytes that come in small pieces
// would else hold many times their size.
func (r *recvHalf) wastefulLocked() bool {
	return r.tail != nil && r.lost+r.tail.room() > r.size/32
}

// append takes over chunks, whose bytes were admitted, or has the sink take them, and
// returns the credit to give for what is taken, or dropped.
func (st *Stream) append(l held) uint32 {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	var credit uint32
	if st.sinkableLocked(l.n) {
		n := st.sinkLocked(func(to sink) int { return to.tryChunks(l.head) })
		credit = st.consumeLocked(n)
		l.skip(n)
		if l.head == nil && st.parkedLocked() {
			return credit
		}
	}
	r.Broadcast() // also for who waited while busy
	if st.droppingLocked() {
		n := unread(l.head)
		freeChunks(l.head)
		return credit + st.consumeLocked(n)
	}
	for c := l.head; c != nil; {
		next := c.next
		c.next = nil
		if r.wastefulLocked() {
			r.copyLocked(c.b[c.r:c.w])
			c.free()
		} else {
			r.linkLocked(c)
		}
		c = next
	}
	return credit
}

// skip frees the first n bytes.
func (l *held) skip(n int) {
	l.n -= n
	for c := l.head; c != nil && n > 0; c = l.head {
		k := min(n, c.w-c.r)
		c.r += k
		n -= k
		if c.r < c.w {
			return
		}
		l.head = c.next
		c.free()
	}
}

// endRecv notes why nothing comes any more. What is there can still be read.
func (st *Stream) endRecv(err error) {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	if r.head == nil && !r.taken {
		st.returnWindowLocked()
	}
	r.Broadcast()
}

// returnWindowLocked takes what the window grew by off the account. It stays there
// while bytes that it let in are held, also when no more can come: else streams that
// are filled, ended and not read would hold any amount.
func (st *Stream) returnWindowLocked() {
	r := &st.recv
	st.session.returnWindow(r.size - InitialWindow)
	r.size = InitialWindow
}

// discardRecv is for a stream that nobody reads any more. It returns the credit for
// what was dropped, so that the other side is not kept from ending.
func (st *Stream) discardRecv() uint32 {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	r.spent = true
	st.returnWindowLocked()
	n := unread(r.head)
	r.clearLocked()
	r.Broadcast()
	return st.consumeLocked(n)
}

func (r *recvHalf) clearLocked() {
	freeChunks(r.head)
	r.head, r.tail, r.lost = nil, nil, 0
}

// Broadcast wakes who waits for a change. The lock is held.
func (r *recvHalf) Broadcast() {
	r.cond.Broadcast()
	if m := r.parked; m != nil && !r.busy {
		r.parked = nil
		go m.run()
	}
}

// waitRecvLocked parks until there is something to read, or returns why there
// won't be.
func (st *Stream) waitRecvLocked() error {
	for {
		if over, err := st.readableLocked(); over {
			return err
		}
		st.recv.cond.Wait()
	}
}

// readableLocked reports whether there is nothing to wait for: something can be read, or
// it says why there won't be anything. Whoever waits then has announced the stream.
func (st *Stream) readableLocked() (bool, error) {
	if over, err := st.glanceLocked(); over || !st.opening.Load() {
		return over, err
	}
	// The other side doesn't know of the stream yet, and may have the first word.
	st.recv.Unlock()
	st.session.announce(st)
	st.recv.Lock()
	return st.glanceLocked()
}

func (st *Stream) glanceLocked() (bool, error) {
	r := &st.recv
	switch {
	case r.busy:
	case r.spent:
		return true, ErrStreamClosed
	case r.deadline.passed():
		return true, errDeadline
	case r.head != nil, r.sink != nil && r.most == 0:
		return true, nil
	case r.err != nil:
		st.returnWindowLocked()
		return true, r.err
	}
	return false, nil
}

// Quiet reports whether there is nothing to read now, neither bytes nor the end, so that
// who keeps idle streams for later finds those that have ended.
func (st *Stream) Quiet() bool {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	return r.head == nil && r.err == nil && !r.spent
}

// read copies to p and returns the credit to give for it.
func (st *Stream) read(p []byte) (int, uint32, error) {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	if err := st.waitRecvLocked(); err != nil {
		return 0, 0, err
	}
	n := 0
	for n < len(p) && r.head != nil {
		c := r.head
		k := copy(p[n:], c.b[c.r:c.w])
		n += k
		c.r += k
		if c.r < c.w {
			break
		}
		if r.head = c.next; r.head == nil {
			r.tail = nil
		} else {
			r.lost -= c.room()
		}
		c.free()
	}
	return n, st.consumeLocked(n), nil
}

// take waits for chunks and takes at most so many bytes of them. While it waits, short
// messages go to the sink, if there is one; sunk says how many bytes of them.
func (st *Stream) take(to sink, most int64) (chunks *chunk, sunk int64, err error) {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	r.sink, r.most, r.taken = to, most, false
	err = st.waitRecvLocked()
	chunks, sunk = st.takeLocked(err)
	return chunks, sunk, err
}

// takeLocked takes chunks when there is nothing to wait for any more, in which err came of
// it.
func (st *Stream) takeLocked(err error) (chunks *chunk, sunk int64) {
	r := &st.recv
	r.sink = nil
	sunk, r.sunk = r.sunk, 0
	if err == nil && r.most > 0 {
		chunks = r.cutLocked(r.most)
		r.taken = true
	}
	return chunks, sunk
}

// cutLocked takes at most so many bytes from the head of the list. Of a chunk that is to be
// taken in part a copy is.
func (r *recvHalf) cutLocked(most int64) *chunk {
	first := r.head
	var last *chunk
	for c := first; c != nil; c = c.next {
		n := c.w - c.r
		if int64(n) > most {
			part := newChunk(int(most))
			part.w = copy(part.b, c.b[c.r:c.r+int(most)])
			c.r += part.w
			if last == nil {
				return part
			}
			last.next, r.head = part, c
			return first
		}
		if most -= int64(n); most == 0 && c.next != nil {
			r.lost -= c.room()
			r.head, c.next = c.next, nil
			return first
		}
		if c.next != nil {
			r.lost -= c.room()
		}
		last = c
	}
	r.head, r.tail, r.lost = nil, nil, 0
	return first
}

// consume notes that n bytes were used and returns the credit to give for them.
func (st *Stream) consume(n int) uint32 {
	st.recv.Lock()
	defer st.recv.Unlock()
	return st.consumeLocked(n)
}
