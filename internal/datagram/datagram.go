// Package datagram carries UDP datagrams in a stream: each travels behind its length,
// a visitor's flow has a stream of its own. What the stream does not take in time is
// lost, oldest first, as it would be on the way of a datagram without a tunnel; nothing
// here makes a sender of datagrams wait. Edge and agent use it on their ends of the
// walk. It imports nothing of ours.
package datagram

import "encoding/binary"

// MaxSize of a datagram in bytes, as far as the length in front of it reaches.
const MaxSize = 65535

const prefix = 2 // bytes of the length

// Append appends a datagram as it travels in a stream. It has at most MaxSize bytes.
func Append(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram))) //nolint:gosec // the caller's promise
	return append(b, datagram...)
}

// Decoder finds the datagrams in a stream's bytes, which come in any pieces. It takes
// memory for what has arrived, not for what a length announces.
type Decoder struct {
	Each func(datagram []byte) // must not keep it

	partial []byte // the beginning of a datagram
}

// Write implements io.Writer. It never fails: any bytes are datagrams.
func (d *Decoder) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if len(d.partial) == 0 {
			if whole := size(b); whole > 0 && whole <= len(b) {
				d.Each(b[prefix:whole])
				b = b[whole:]
				continue
			}
		}
		missing := prefix - len(d.partial)
		if whole := size(d.partial); whole > 0 {
			missing = whole - len(d.partial)
		}
		take := min(missing, len(b))
		d.partial = append(d.partial, b[:take]...)
		b = b[take:]
		if whole := size(d.partial); whole > 0 && whole == len(d.partial) {
			d.Each(d.partial[prefix:])
			d.partial = d.partial[:0]
		}
	}
	if len(d.partial) == 0 {
		d.partial = nil // a quiet flow holds no buffer
	}
	return n, nil
}

// size is that of the datagram at the beginning of b with its length, 0 if that is not
// there yet.
func size(b []byte) int {
	if len(b) < prefix {
		return 0
	}
	return prefix + int(binary.BigEndian.Uint16(b))
}
