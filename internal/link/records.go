package link

import (
	"net"
	"sync"

	"github.com/culvert-tunnel/culvert/internal/link/resume"
)

// records is the connection below TLS. TLS reads and writes record by record, and
// a record is 16 KiB at most; records makes few and large system calls of that.
// While nothing is under way it holds no buffer.
type records struct {
	net.Conn
	socket *socket // nil: Conn's own methods will do
	prefix []byte  // to be read first

	in struct { // of the one goroutine that reads
		buf    *[readBatch]byte
		r, w   int
		record border // at r, or at the beginning of prefix
	}

	mu struct {
		sync.Mutex
		collecting bool
		out        *[]byte // collected; nil: nothing
		sent       int     // bytes of out
		total      int64   // bytes that the socket took of what was collected
		err        error   // of sending
	}
}

// Sizes of system calls, in bytes. A write is tried as soon as there are so many.
const (
	readBatch  = 128 << 10
	writeBatch = 64 << 10
)

var (
	readBuffers  = sync.Pool{New: func() any { return new([readBatch]byte) }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, writeBatch+(20<<10)); return &b }}
)

func newRecords(c net.Conn, prefix []byte) *records {
	return &records{Conn: c, socket: newSocket(c), prefix: prefix}
}

// Read returns what is there; when nothing is, it waits and reads as much as there
// is. It stops at the end of a record: TLS, which takes what it gets, is to hold
// nothing of the next one, so that ready knows what there is.
func (r *records) Read(p []byte) (int, error) {
	in := &r.in
	if len(r.prefix) > 0 {
		n := copy(p, r.prefix[:in.record.pass(first(r.prefix, len(p)))])
		if r.prefix = r.prefix[n:]; len(r.prefix) == 0 {
			r.prefix = nil
		}
		return n, nil
	}
	if r.socket == nil {
		return r.Conn.Read(p)
	}
	if in.r == in.w {
		var err error
		in.r = 0
		in.buf, in.w, err = r.socket.read(readBatch)
		if err != nil {
			in.w = 0
			return 0, err
		}
	}
	there := first(in.buf[in.r:in.w], len(p))
	n := copy(p, there[:in.record.pass(there)])
	if in.r += n; in.r == in.w {
		readBuffers.Put(in.buf)
		in.buf, in.r, in.w = nil, 0, 0
	}
	return n, nil
}

func first(b []byte, n int) []byte { return b[:min(len(b), n)] }

// ready says whether a whole record is there that TLS has not taken, and more in it than
// in those of a resumable connection that bring nothing of the stream.
func (r *records) ready() bool {
	in := &r.in
	if in.r == in.w || !in.record.reached() {
		return false
	}
	b := in.buf[in.r:in.w]
	n := recordHead + recordLength(b)
	return n > recordHead+resume.MaxControl+sealed && len(b) >= n
}

// A TLS record is a header, the length of what follows in its last two bytes, and that:
// content with the bytes that sealed it (RFC 8446, section 5.2).
const (
	recordHead = 5
	sealed     = 1 + 16
)

// recordLength is how many bytes follow the header at the beginning of b; none if that
// is not all there.
func recordLength(b []byte) int {
	if len(b) < recordHead {
		return 0
	}
	return int(b[3])<<8 | int(b[4])
}

// border follows TLS records in what is read.
type border struct {
	head [recordHead]byte
	have int // of head, of a record of which nothing else was passed
	left int // of the record at hand
}

// reached says whether what comes next is a new record.
func (d *border) reached() bool { return d.have == 0 && d.left == 0 }

// pass returns how many bytes of b are of one record, and takes them as passed.
func (d *border) pass(b []byte) int {
	n := 0
	if d.left == 0 {
		n = copy(d.head[d.have:], b)
		if d.have += n; d.have < len(d.head) {
			return n
		}
		d.have, d.left = 0, recordLength(d.head[:])
	}
	m := min(len(b)-n, d.left)
	d.left -= m
	return n + m
}

// collect begins or ends the collecting of what is written.
func (r *records) collect(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.collecting = on
}

// Write sends p behind what was collected. While collecting it only adds to that,
// and sends what can be sent at once when there is much.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.err != nil {
		return 0, r.mu.err
	}
	if r.mu.out == nil {
		if !r.mu.collecting {
			return r.Conn.Write(p)
		}
		r.mu.out = writeBuffers.Get().(*[]byte)
	}
	*r.mu.out = append(*r.mu.out, p...)
	if !r.mu.collecting || r.socket == nil || len(*r.mu.out)-r.mu.sent < writeBatch {
		return len(p), nil
	}
	r.tryLocked()
	return len(p), r.mu.err
}

// pass sends what was collected by one Write, and waits for it.
func (r *records) pass() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.out == nil || r.mu.err != nil {
		return r.mu.err
	}
	_, r.mu.err = r.Conn.Write(*r.mu.out)
	r.releaseLocked()
	return r.mu.err
}

// releaseLocked gives the buffer back.
func (r *records) releaseLocked() {
	*r.mu.out = (*r.mu.out)[:0]
	writeBuffers.Put(r.mu.out)
	r.mu.out, r.mu.sent = nil, 0
}
