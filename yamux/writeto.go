package yamux

import (
	"io"
	"math"
)

// WriteTo writes to w all that comes until the end of input. It hands on whole
// buffers, and while nothing else is under way, short messages go to w, if that is
// a socket, straight from where they were received.
func (st *Stream) WriteTo(w io.Writer) (int64, error) {
	n, err := st.WriteToN(w, math.MaxInt64)
	if err == io.EOF { //nolint:errorlint // returned bare
		err = nil
	}
	return n, err
}

// WriteToN is WriteTo for the next n bytes. What comes behind them stays to be read. The
// error is io.EOF if there were fewer, else not nil if they were not all written.
func (st *Stream) WriteToN(w io.Writer, n int64) (int64, error) {
	to := newSink(w)
	total := int64(0)
	defer st.handedOver()
	for total < n {
		chunks, sunk, err := st.take(to, n-total)
		total += sunk
		if err == io.EOF { //nolint:errorlint // set bare
			return total, err
		}
		if err != nil {
			return total, st.opError("read", err)
		}
		k, err := st.writeChunks(w, to, chunks)
		total += k
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// WriteToThen does what WriteTo does and hands its outcome to then, perhaps after it has
// returned. While nothing comes it takes no goroutine.
func (st *Stream) WriteToThen(w io.Writer, then func(n int64, err error)) {
	m := &mover{stream: st, w: w, to: newSink(w), then: then}
	m.run()
}

// mover is a WriteToThen.
type mover struct {
	stream *Stream
	w      io.Writer
	to     sink
	total  int64
	then   func(n int64, err error)
}

// run moves what there is, until nothing is left to move but more may come, or until the
// end.
func (m *mover) run() {
	st := m.stream
	for {
		chunks, err, parked := m.take()
		if parked {
			return
		}
		if err == nil {
			var n int64
			n, err = st.writeChunks(m.w, m.to, chunks)
			m.total += n
		} else if err != io.EOF { //nolint:errorlint // set bare
			err = st.opError("read", err)
		}
		if err != nil {
			st.handedOver()
			if err == io.EOF { //nolint:errorlint // likewise
				err = nil
			}
			m.then(m.total, err)
			return
		}
	}
}

// take is Stream.take for as much as there is. It waits for nothing but parks m.
func (m *mover) take() (chunks *chunk, err error, parked bool) {
	r := &m.stream.recv
	r.Lock()
	defer r.Unlock()
	r.sink, r.most, r.taken = m.to, math.MaxInt64, false
	over, err := m.stream.readableLocked()
	if !over {
		r.parked = m
		return nil, nil, true
	}
	chunks, sunk := m.stream.takeLocked(err)
	m.total += sunk
	return chunks, err, false
}

// handedOver notes that what was taken is held no more.
func (st *Stream) handedOver() {
	r := &st.recv
	r.Lock()
	defer r.Unlock()
	r.taken = false
	if r.err != nil && r.head == nil {
		st.returnWindowLocked()
	}
}

// writeAtOnce bounds what is handed over, and what is written before credit is given for it.
const writeAtOnce = 128 << 10

// writeChunks writes the chunks and frees them.
func (st *Stream) writeChunks(w io.Writer, to sink, chunks *chunk) (int64, error) {
	total := int64(0)
	for chunks != nil {
		part, size := chunks, chunks.w-chunks.r
		last := part
		for last.next != nil && size+last.next.w-last.next.r <= writeAtOnce {
			last = last.next
			size += last.w - last.r
		}
		chunks, last.next = last.next, nil
		n, err := writeList(w, to, part)
		freeChunks(part)
		total += n
		if err != nil { // what was taken is lost, and must not keep the other side waiting for credit
			size += unread(chunks)
			freeChunks(chunks)
			chunks = nil
		}
		st.session.credit(st, st.consume(size))
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func writeList(w io.Writer, to sink, list *chunk) (int64, error) {
	if to != nil {
		return to.write(list)
	}
	total := int64(0)
	for c := list; c != nil; c = c.next {
		n, err := w.Write(c.b[c.r:c.w])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
