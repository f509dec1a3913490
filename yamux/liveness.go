package yamux

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// path is what is known of the way to the other side.
type path struct {
	least    atomic.Int64 // least round trip lately, in nanoseconds; 0: not measured yet
	smoothed atomic.Int64

	mu struct {
		sync.Mutex
		nextID  uint32
		pings   map[uint32]ping
		samples [8]int64 // the last round trips, a ring
		next    int
		timer   *time.Timer
		wrote   int64 // Session.taken at the last look
		missed  int
		probed  int64 // now at the last ping of its own
		stopped bool
	}
}

// ping is one that waits for its answer.
type ping struct {
	sent int64
	done chan<- time.Duration // nil: the session's own
}

func (p *path) init() { p.mu.pings = make(map[uint32]ping) }

// maxPings bounds the pings that wait for an answer.
const maxPings = 64

// Ping asks the other side for a sign of life and returns the round-trip time.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	answer := make(chan time.Duration, 1)
	id, err := s.ping(answer)
	if err != nil {
		return 0, err
	}
	select {
	case d := <-answer:
		return d, nil
	case <-s.done:
		return 0, s.Err()
	case <-ctx.Done():
		s.path.mu.Lock()
		delete(s.path.mu.pings, id)
		s.path.mu.Unlock()
		return 0, ctx.Err()
	}
}

func (s *Session) ping(done chan<- time.Duration) (uint32, error) {
	p := &s.path
	p.mu.Lock()
	if len(p.mu.pings) >= maxPings {
		p.mu.Unlock()
		return 0, ErrTooManyPings
	}
	id := p.mu.nextID
	p.mu.nextID++
	p.mu.pings[id] = ping{sent: s.now(), done: done}
	p.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return 0, s.mu.err
	}
	s.controlLocked(header{kind: typePing, flags: flagSYN, length: id})
	return id, nil
}

func (s *Session) onPing(h header) error {
	if h.flags&flagACK == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.controlLocked(header{kind: typePing, flags: flagACK, length: h.length})
		return s.bearLocked()
	}
	if s.pong(h.length) {
		_, _ = s.ping(nil)
	}
	return nil
}

// The first round trips of a session are measured with goroutines and caches cold.
// On a short path that is most of what is measured, so it is done some times over.
const (
	firstSamples = 5
	shortPath    = 2 * time.Millisecond
)

// pong notes the answer to a ping and reports whether to measure once more.
func (s *Session) pong(id uint32) bool {
	p := &s.path
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, ok := p.mu.pings[id]
	if !ok {
		return false // answered twice, or given up
	}
	delete(p.mu.pings, id)
	d := max(s.now()-asked.sent, 1)
	p.mu.samples[p.mu.next%len(p.mu.samples)] = d
	p.mu.next++
	least := d
	for _, sample := range p.mu.samples {
		if sample > 0 {
			least = min(least, sample)
		}
	}
	more := p.mu.next < firstSamples && least < int64(shortPath)
	if !more {
		p.least.Store(least)
	}
	if old := p.smoothed.Load(); old > 0 {
		d = old + (d-old)/8 // as TCP does (RFC 6298, section 2)
	}
	p.smoothed.Store(d)
	if asked.done != nil {
		asked.done <- time.Duration(s.now() - asked.sent)
	}
	return asked.done == nil && more
}

// RTT is the smoothed round-trip time, 0 before the first measurement.
func (s *Session) RTT() time.Duration { return time.Duration(s.path.smoothed.Load()) }

// probeEvery is how often the round trip is measured while there is traffic.
const probeEvery = 10 * time.Second

// startKeepAlive measures the round trip for the first time and from then on looks
// for signs of life.
func (s *Session) startKeepAlive() {
	_, _ = s.ping(nil)
	if s.cfg.KeepAliveInterval < 0 {
		return
	}
	p := &s.path
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.stopped {
		p.mu.timer = time.AfterFunc(s.cfg.KeepAliveInterval, s.look)
	}
}

func (s *Session) stopKeepAlive() {
	p := &s.path
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.stopped = true
	if p.mu.timer != nil {
		p.mu.timer.Stop()
	}
}

// look is called by the timer: after a silence of the interval it pings, and after
// two pings that brought no byte in two thirds of the interval each it ends the
// session, unless that is Patient. While the connection takes bytes that had been waiting, the other side
// is alive too: a ping behind bulk may take its time.
func (s *Session) look() {
	interval := int64(s.cfg.KeepAliveInterval)
	p := &s.path
	now := s.now()
	wrote := s.taken.Load()
	s.mu.Lock()
	busy := s.mu.writing
	s.mu.Unlock()

	p.mu.Lock()
	silence := now - s.heard.Load()
	progress := busy && wrote > p.mu.wrote
	p.mu.wrote = wrote
	next, probe, dead := interval, false, false
	switch {
	case silence < interval:
		p.mu.missed = 0
		next = interval - silence
		if now-p.mu.probed > int64(probeEvery) {
			probe = true
		}
	case s.cfg.Patient:
	case p.mu.missed > 0 && progress:
		next = interval * 2 / 3
	case p.mu.missed < 2:
		p.mu.missed++
		probe = true
		next = interval * 2 / 3
	default:
		dead = true
	}
	if probe {
		p.mu.probed = now
		p.forgetLocked(now - 4*interval)
	}
	if !dead && !p.mu.stopped {
		p.mu.timer.Reset(time.Duration(max(next, int64(time.Millisecond))))
	}
	p.mu.Unlock()
	if dead {
		s.end(ErrKeepAlive)
	} else if probe {
		_, _ = s.ping(nil)
	}
}

// forgetLocked drops the session's own pings that were sent before.
func (p *path) forgetLocked(before int64) {
	for id, asked := range p.mu.pings {
		if asked.done == nil && asked.sent < before {
			delete(p.mu.pings, id)
		}
	}
}

// patience bounds how often the other side may ask for what costs it nothing:
// pings, and streams that are refused. It is a bucket of tokens.
type patience struct {
	used int64
	at   int64
}

const (
	patienceBurst  = 8192
	patiencePerSec = 1024
)

// spend takes a token.
func (p *patience) spend(now int64) error {
	if back := (now - p.at) / (int64(time.Second) / patiencePerSec); back > 0 {
		p.used = max(p.used-back, 0)
		p.at = now
	}
	if p.used++; p.used > patienceBurst {
		return &ProtocolError{Reason: ErrFlood}
	}
	return nil
}

// maxControl bounds the bytes of control frames that wait to be sent while the other
// side asks for more. Credit for all the streams there may be is less.
const maxControl = 1 << 20

// bearLocked notes a request that costs the other side nothing. Answers that it
// does not read must not add up.
func (s *Session) bearLocked() error {
	if len(s.mu.control) > maxControl {
		return &ProtocolError{Reason: ErrFlood}
	}
	return s.mu.patience.spend(s.now())
}

// lazily is how long a SYN or ACK waits for a frame to travel with.
const lazily = 2 * time.Millisecond

// oweLocked notes that st owes the other side a SYN or ACK, which goes with its
// first frame or, if there is none soon, alone.
func (s *Session) oweLocked(st *Stream) {
	if st.send.flags == 0 {
		return
	}
	s.mu.lazy = append(s.mu.lazy, st)
	if len(s.mu.lazy) > 1 {
		return // the timer runs
	}
	if s.mu.lazyTimer == nil {
		s.mu.lazyTimer = time.AfterFunc(lazily, s.payDebts)
	} else {
		s.mu.lazyTimer.Reset(lazily)
	}
}

// payDebts sends what streams still owe.
func (s *Session) payDebts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	debts := s.mu.lazy
	s.mu.lazy = nil
	for _, st := range debts {
		s.announceLocked(st)
	}
}

// announce sends the SYN or ACK of st now.
func (s *Session) announce(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announceLocked(st)
}

func (s *Session) announceLocked(st *Stream) {
	if s.mu.err != nil || s.mu.streams[st.id] != st {
		return
	}
	if flags := st.takeFlagsLocked(); flags != 0 {
		s.controlLocked(header{kind: typeWindow, flags: flags, stream: st.id})
	}
}
