package datagram

import "io"

// Sender is what Queue.WriteTo writes to where datagrams have a way beside the stream: each
// goes by Beside, or in the stream where that does not take it.
type Sender struct {
	Beside func(datagram []byte) (taken bool)
	Stream io.Writer
}

// Write implements io.Writer, for whole datagrams.
func (s Sender) Write(b []byte) (int, error) {
	from, at := 0, 0 // what is between goes in the stream
	flush := func() error {
		if from == at {
			return nil
		}
		_, err := s.Stream.Write(b[from:at])
		return err
	}
	for at < len(b) {
		next := at + size(b[at:])
		if !s.Beside(b[at+prefix : next]) {
			at = next
			continue
		}
		if err := flush(); err != nil {
			return from, err
		}
		from, at = next, next
	}
	return len(b), flush()
}
