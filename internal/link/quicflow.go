package link

import (
	"context"
	"errors"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// Datagrams is what streams have that can carry datagrams beside their bytes, each within
// one packet. Any may be lost, and come in another order than bytes do.
type Datagrams interface {
	// SendDatagram sends one, or returns ErrDatagramSize for one that fits in no packet. It
	// waits while as many as are worth it wait to be sent.
	SendDatagram(p []byte) error
	// ReceiveDatagrams has each called with those that come, one at a time, until the
	// stream ends. It must not wait, nor keep them. It is called once.
	ReceiveDatagrams(each func(p []byte))
}

// ErrDatagramSize says that a datagram is too large for a packet.
var ErrDatagramSize = errors.New("datagram too large")

// A datagram is that of the stream whose number stands before it. The stream of the
// handshake has none: its number asks for life.
const askFlow = 0

// early is how many datagrams wait for their stream to be known.
const early = 32

// flows are the streams of a session that take datagrams.
type flows struct {
	mu struct {
		sync.Mutex
		each  map[uint64]func([]byte)
		early []earlyDatagram
		ended bool
	}
}

type earlyDatagram struct {
	flow    uint64
	payload []byte
}

func (f *flows) init() { f.mu.each = make(map[uint64]func([]byte)) }

// receive hands datagrams on until the connection ends.
func (f *flows) receive(conn *quic.Conn) {
	for {
		b, err := conn.ReceiveDatagram(context.WithoutCancel(conn.Context()))
		if err != nil {
			return
		}
		flow, n, err := quicvarint.Parse(b)
		if err != nil || flow == askFlow {
			continue
		}
		f.deliver(flow, b[n:])
	}
}

// deliver hands a datagram to its stream. One whose stream is not known yet waits; the
// oldest make room.
func (f *flows) deliver(flow uint64, p []byte) {
	f.mu.Lock()
	each := f.mu.each[flow]
	if each == nil && !f.mu.ended {
		if len(f.mu.early) >= early {
			f.mu.early = append(f.mu.early[:0], f.mu.early[1:]...)
		}
		f.mu.early = append(f.mu.early, earlyDatagram{flow, p})
	}
	f.mu.Unlock()
	if each != nil {
		each(p)
	}
}

// add makes a stream known, when each has what has come for it before.
func (f *flows) add(flow uint64, each func([]byte)) {
	for {
		waited := f.take(flow, each)
		if waited == nil {
			return
		}
		for _, d := range waited {
			each(d.payload)
		}
	}
}

// take takes the datagrams that wait for a stream. It makes the stream known if there are
// none.
func (f *flows) take(flow uint64, each func([]byte)) []earlyDatagram {
	f.mu.Lock()
	defer f.mu.Unlock()
	var waited, others []earlyDatagram
	for _, d := range f.mu.early {
		if d.flow == flow {
			waited = append(waited, d)
		} else {
			others = append(others, d)
		}
	}
	f.mu.early = others
	if waited == nil && !f.mu.ended {
		f.mu.each[flow] = each
	}
	return waited
}

func (f *flows) remove(flow uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mu.each, flow)
}

func (f *flows) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.ended, f.mu.early = true, nil
	clear(f.mu.each)
}

func (st *quicStream) flow() uint64 { return uint64(st.quic.StreamID()) } //nolint:gosec // not negative

// SendDatagram implements Datagrams.
func (st *quicStream) SendDatagram(p []byte) error {
	b := append(quicvarint.Append(make([]byte, 0, quicvarint.Len(st.flow())+len(p)), st.flow()), p...)
	err := st.session.conn.SendDatagram(b)
	switch {
	case err == nil:
		return nil
	case st.session.conn.Context().Err() != nil:
		return st.session.lost(err)
	}
	return ErrDatagramSize // or the other side takes none at all
}

// ReceiveDatagrams implements Datagrams.
func (st *quicStream) ReceiveDatagrams(each func(p []byte)) {
	st.session.flows.add(st.flow(), each)
}
