package yamux

import "encoding/binary"

// A frame is a header of 12 bytes, big endian, and for data frames a payload:
// version (1), type (1), flags (2), stream id (4), length (4).
const headerSize = 12

const protocolVersion = 0

const (
	typeData   = 0 // length: bytes of payload that follow
	typeWindow = 1 // length: credit that is added
	typePing   = 2 // length: opaque, returned with the ACK flag
	typeGoAway = 3 // length: a GoAwayCode
)

const (
	flagSYN = 1 << iota
	flagACK
	flagFIN
	flagRST
)

// maxPayload of a frame that is sent: as much as programs write at once, and little enough
// that streams take turns often.
const maxPayload = 64 << 10

// maxFrame bounds the frames that are sent, header included.
const maxFrame = headerSize + maxPayload

// readAtOnce is the payload of a frame that is read for it: with the header it is what four
// TLS records hold, each of which may begin with a header of what is in between (Keeper).
const readAtOnce = 4*(tlsRecord-KeepRoom) - headerSize

type header struct {
	version byte
	kind    byte
	flags   uint16
	stream  uint32
	length  uint32
}

func parseHeader(b []byte) header {
	_ = b[headerSize-1]
	return header{
		version: b[0],
		kind:    b[1],
		flags:   binary.BigEndian.Uint16(b[2:]),
		stream:  binary.BigEndian.Uint32(b[4:]),
		length:  binary.BigEndian.Uint32(b[8:]),
	}
}

func (h header) put(b []byte) {
	_ = b[headerSize-1]
	b[0] = h.version
	b[1] = h.kind
	binary.BigEndian.PutUint16(b[2:], h.flags)
	binary.BigEndian.PutUint32(b[4:], h.stream)
	binary.BigEndian.PutUint32(b[8:], h.length)
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, h.version, h.kind)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	return binary.BigEndian.AppendUint32(b, h.length)
}
