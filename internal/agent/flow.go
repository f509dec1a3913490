package agent

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-tunnel/culvert/internal/datagram"
	"github.com/culvert-tunnel/culvert/internal/link"
	"github.com/culvert-tunnel/culvert/internal/splice"
)

// maxQueued bounds the datagrams that wait for the link, in bytes.
const maxQueued = 64 << 20

// lastSilence ends a flow of an agent that drains: nothing else says that a visitor is
// done.
const lastSilence = time.Second

// flow is the datagrams between one visitor and a socket of the upstream of its own.
type flow struct {
	endpoint *served
	up       net.Conn
	queue    *datagram.Queue
	beside   link.Datagrams // nil: datagrams go in the stream alone
	cancel   context.CancelCauseFunc
	began    time.Time
	last     atomic.Int64 // when a datagram came or went, since began
	answered atomic.Bool
	lost     atomic.Int64
}

// carry moves datagrams both ways until the node ends the flow, the upstream's port
// turns out to be closed, or ctx ends. The end of draining ends it when it is silent.
func (f *flow) carry(ctx, draining context.Context, st link.Stream) (splice.Counts, error) {
	ctx, f.cancel = context.WithCancelCause(ctx)
	defer f.cancel(nil)
	f.began = time.Now()
	stop := context.AfterFunc(ctx, func() {
		f.queue.Close()
		_ = st.Reset()
		_ = f.up.Close()
	})
	defer stop()
	defer context.AfterFunc(draining, func() { f.awaitSilence(ctx) })()

	var n splice.Counts
	var tasks sync.WaitGroup
	tasks.Go(func() { f.cancel(datagram.Receive(f.up, f.receive)) })
	tasks.Go(func() {
		var err error
		n.Backward, err = f.queue.WriteTo(datagram.Sender{Beside: f.answer, Stream: st})
		f.cancel(err)
	})
	if f.beside != nil {
		f.beside.ReceiveDatagrams(f.send)
	}
	n.Forward, _ = io.Copy(&datagram.Decoder{Each: f.send}, st)
	f.cancel(nil)
	tasks.Wait()
	f.endpoint.lost.Add(f.lost.Load() + f.queue.Dropped())
	err := context.Cause(ctx)
	if isRefused(err) {
		f.endpoint.note(err)
		return n, err
	}
	return n, nil
}

func (f *flow) touch() { f.last.Store(int64(time.Since(f.began))) }

// receive takes a datagram from the upstream.
func (f *flow) receive(p []byte) {
	f.touch()
	if !f.answered.Swap(true) {
		f.endpoint.note(nil)
	}
	f.queue.Push(p)
}

// answer sends a datagram of the upstream beside the stream, if it can.
func (f *flow) answer(p []byte) bool { return f.beside != nil && f.beside.SendDatagram(p) == nil }

// send gives a datagram to the upstream.
func (f *flow) send(p []byte) {
	f.touch()
	if _, err := f.up.Write(p); isRefused(err) {
		f.cancel(err)
	} else if err != nil {
		f.lost.Add(1) // too large for the way, or no way: a datagram may be lost
	}
}

// awaitSilence ends the flow once it is silent.
func (f *flow) awaitSilence(ctx context.Context) {
	for {
		left := lastSilence + time.Duration(f.last.Load()) - time.Since(f.began)
		if left <= 0 {
			f.cancel(nil)
			return
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return
		}
	}
}
