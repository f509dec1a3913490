package resume

// A record is a header of 4 bytes, the kind and the length of what follows in 24 bits,
// and that.
const (
	headerSize = 4

	kindData  = 0 // bytes of the stream
	kindAsk   = 1 // the same, perhaps none, and the receiver is to send an ack behind it
	kindAck   = 2 // the count of all bytes received, 8 bytes
	kindClose = 3 // the Conn has ended; nothing
)

const (
	// maxData is the most bytes of one record: with the header it fills a TLS record
	// (RFC 8446, section 5.1).
	maxData = 16<<10 - headerSize
	ackSize = 8
)

// MaxControl is the size of the largest record that brings no bytes of the stream.
const MaxControl = headerSize + ackSize

func putHeader(b []byte, kind byte, length int) {
	b[0], b[1], b[2], b[3] = kind, byte(length>>16), byte(length>>8), byte(length) //nolint:gosec // 24 bits
}

// parseHeader reads a header and judges it.
func parseHeader(b []byte) (kind byte, length int, err error) {
	kind, length = b[0], int(b[1])<<16|int(b[2])<<8|int(b[3])
	ok := false
	switch kind {
	case kindData:
		ok = length > 0 && length <= maxData
	case kindAsk:
		ok = length <= maxData
	case kindAck:
		ok = length == ackSize
	case kindClose:
		ok = length == 0
	}
	if !ok {
		return 0, 0, &ProtocolError{Reason: "sent a record that does not exist"}
	}
	return kind, length, nil
}
