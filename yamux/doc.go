// Package yamux carries many streams over one connection, as the Yamux
// specification describes. It interoperates with hashicorp/yamux, libp2p's
// go-yamux and rust-yamux, and is made for proxying: bytes cross it with few
// copies and few system calls, short messages do not wait behind bulk, and idle
// sessions and streams cost next to nothing.
//
// A [Session] owns the connection it is given and everything that runs on it;
// it starts nothing before [Session.Run]. A [Stream] is a [net.Conn] that can
// also close one direction, and be reset. The package dials nothing, and knows
// neither TLS nor what the streams carry.
//
// # Connections
//
// Any [net.Conn] will do. Two kinds do better: a [net.TCPConn] is read and
// written by scatter and gather without blocking, and a [BufferedConn], which
// collects writes, lets a layer such as TLS send many records in one call. One that
// keeps what it sent, to send it again, may be a [Keeper] and have large frames
// without a copy.
//
// # Locks
//
// Session.mu guards the table of streams, everything that is to be sent, and the
// sending half of every stream. Stream.recv guards the receiving half of one
// stream. They are never held together, and neither is held during I/O.
//
// # Ownership
//
// At most one goroutine writes to the connection at a time: the one that set
// Session.mu.writing. That is a stream's caller for one frame of its own, sent
// without blocking, or the drainer, a goroutine that lives while something is
// queued. A frame's buffer is his, and a Keeper's once that has taken it. Only the goroutine in Run reads; it waits for no writer, no reader of a
// stream, and no lock that is held across I/O, so two sides that both write
// cannot lock each other up.
package yamux
