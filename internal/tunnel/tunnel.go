// Package tunnel owns the wire between agent and node: the messages of the
// handshake, of the control stream and of the head of every data stream, the
// codes they carry, and the form of tokens. It knows neither transports (package
// link) nor what the messages bring about (server/control and agent).
//
// Every message travels as an unsigned varint length and that many bytes of
// protobuf. docs/protocol.md describes the exchange, testdata/ holds its golden
// bytes.
package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Version is the protocol version this package speaks.
const Version = 1

// ALPN is the application protocol (RFC 7301) of a link.
const ALPN = "culvert/1"

// Limits on the encoded length of one message, in bytes.
const (
	MaxHandshake = 64 << 10 // Hello, HelloReply
	MaxControl   = 64 << 10 // Control
	MaxHeader    = 4 << 10  // StreamHeader, StreamReply
)

// Errors of reading a message.
var (
	ErrTooLarge  = errors.New("message over its size limit")
	ErrMalformed = errors.New("malformed message")
)

// Append appends m with its length to b. A message over limit bytes is an error,
// so that nobody sends what the other side must refuse.
func Append(b []byte, m proto.Message, limit int) ([]byte, error) {
	size := proto.Size(m)
	if size > limit {
		return b, fmt.Errorf("encode %s of %d bytes: %w", m.ProtoReflect().Descriptor().Name(), size, ErrTooLarge)
	}
	b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // size is not negative
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

// Write writes m with its length in one call of w.Write.
func Write(w io.Writer, m proto.Message, limit int) error {
	b, err := Append(nil, m, limit)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// Read reads one message into m and not a byte beyond it. It allocates as bytes
// arrive, never from the announced length alone. An end of input before the first
// byte is io.EOF, after it io.ErrUnexpectedEOF.
func Read(r io.Reader, m proto.Message, limit int) error {
	size, err := readLength(r)
	if err != nil {
		return err
	}
	if size > uint64(limit) { //nolint:gosec // limits are small constants
		return fmt.Errorf("read %s of %d bytes: %w", m.ProtoReflect().Descriptor().Name(), size, ErrTooLarge)
	}
	var body []byte
	if size <= 1024 {
		body = make([]byte, size)
		_, err = io.ReadFull(r, body)
	} else {
		var buf bytes.Buffer
		_, err = io.CopyN(&buf, r, int64(size)) //nolint:gosec // at most limit
		body = buf.Bytes()
	}
	if err != nil {
		return noEOF(err)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("read %s: %w", m.ProtoReflect().Descriptor().Name(), ErrMalformed)
	}
	return nil
}

// readLength reads a minimal unsigned varint. It reads byte by byte, because what
// follows the message belongs to somebody else.
func readLength(r io.Reader) (uint64, error) {
	var n uint64
	var one [1]byte
	for i := range binary.MaxVarintLen64 {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			if i == 0 {
				return 0, err
			}
			return 0, noEOF(err)
		}
		c := one[0]
		if i == 4 { // no message comes near 2^28 bytes
			return 0, fmt.Errorf("read length: %w", ErrTooLarge)
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, fmt.Errorf("read length: %w", ErrMalformed)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("read length: %w", ErrMalformed)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
