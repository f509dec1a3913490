package yamux

import "time"

// Stats is a snapshot of a session.
type Stats struct {
	Streams  int   // open ones
	Waiting  int   // of them, those that wait for Accept
	BytesIn  int64 // received, frame headers included
	BytesOut int64 // handed to the connection, likewise
	Queued   int   // bytes that wait to be sent
	Window   int64 // bytes by which windows exceed InitialWindow, of all streams
	RTT      time.Duration
	LeastRTT time.Duration // of the last few
}

// Stats returns a snapshot.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Streams: len(s.mu.streams), Waiting: len(s.mu.accept), Queued: s.queuedLocked(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(), Window: s.extra.Used(),
		RTT: s.RTT(), LeastRTT: time.Duration(s.path.least.Load()),
	}
}

// Moved is the number of bytes received and handed to the connection.
func (s *Session) Moved() int64 { return s.bytesIn.Load() + s.bytesOut.Load() }

// Queued is the number of bytes that wait to be sent.
func (s *Session) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queuedLocked()
}

func (s *Session) queuedLocked() int {
	n := s.mu.bulkBytes + len(s.mu.control)
	if s.mu.light != nil {
		n += s.mu.light.n
	}
	if s.mu.rest != nil {
		n += s.mu.rest.n
	}
	return n
}
