package yamux

import "time"

// A window that is to keep a path busy holds what the path holds: rate times round
// trip. So windows double while they are less than the rate at which they are used
// up would need, with some to spare. The round trip is the least one measured
// lately, without the queues that a large window itself makes.
//
// On a short path processors are the limit, not windows, and readers take what is
// there in bursts. There the rate is that of many round trips, and little is to
// spare while others say short things: what a window lets pass beyond need only waits
// in sockets, in front of everything else. While nobody does, it may hold what passes
// in the time for which a process is kept from running, so that the other side seldom
// waits for credit.
//
// On a long path a stream that is no short exchange has its window enlarged before it is
// used up. To wait for that would hold the transport back, which may then take what the
// window allows for what the path does (BBR), and be slow to find out otherwise.
const (
	longWindow  = 2 << 20
	longAfter   = InitialWindow / 4 // bytes
	spare       = 3
	spareShort  = 1.25
	epochShort  = time.Millisecond // at least, to measure a rate on a short path
	absence     = 4 * time.Millisecond
	quietAfter  = 200 * time.Millisecond
	chatter     = 16 << 10 // bytes in an absence, at most
	shrinkAfter = 2 * time.Second
)

// consumeLocked notes that n bytes were used. When half the window is used up, it
// returns the credit to give.
func (st *Stream) consumeLocked(n int) uint32 {
	r := &st.recv
	r.consumed += uint32(n) //nolint:gosec // at most the window
	if r.consumed < r.size/2 || r.err != nil {
		return st.enlargeLocked()
	}
	credit := r.consumed
	r.consumed, r.enlarged = 0, true
	r.epochBytes += credit
	if !r.spent {
		credit = st.resizeLocked(credit)
	}
	r.window += credit
	return credit
}

// enlargeLocked returns the credit by which a first window is too small for a long path.
func (st *Stream) enlargeLocked() uint32 {
	s, r := st.session, &st.recv
	if r.enlarged || r.consumed < longAfter || r.err != nil || r.spent || s.path.least.Load() < int64(shortPath) {
		return 0
	}
	r.enlarged = true
	var credit uint32
	for r.size < longWindow && s.takeWindow(r.size) {
		credit += r.size
		r.size *= 2
	}
	r.window += credit
	return credit
}

// resizeLocked fits the window to the rate at which it is used up and returns the
// credit to give in place of the one due.
func (st *Stream) resizeLocked(credit uint32) uint32 {
	s, r := st.session, &st.recv
	now, rtt := s.now(), s.path.least.Load()
	elapsed := now - r.epoch
	need := spare * float64(rtt)
	narrow := false
	if rtt < int64(shortPath) {
		if elapsed < int64(epochShort) {
			return credit
		}
		need = spareShort * float64(rtt)
		if narrow = now-s.chat.Load() < int64(quietAfter); !narrow {
			need = max(need, float64(absence))
		}
	}
	need *= float64(r.epochBytes) / float64(max(elapsed, 1))
	r.epoch, r.epochBytes = now, 0
	switch {
	case float64(r.size) < need:
		if s.takeWindow(r.size) {
			credit += r.size
			r.size *= 2
		}
	case r.size > InitialWindow && (narrow && float64(r.size/2) > need || elapsed > int64(shrinkAfter) && elapsed > 64*rtt):
		cut := min(credit, r.size/2)
		credit -= cut
		r.size -= cut
		s.returnWindow(cut)
	}
	return credit
}

// chatsLocked notes, when something short comes, whether it is of a stream that carries
// little: bulk has short pieces too, also where its rate has just begun to be measured anew.
func (st *Stream) chatsLocked() {
	r, now := &st.recv, st.session.heard.Load()
	elapsed := now - r.epoch
	if elapsed >= int64(absence) && float64(r.epochBytes+r.consumed)*float64(absence) < chatter*float64(elapsed) {
		st.session.chat.Store(now)
	}
}

// takeWindow asks for n bytes more of windows, which doubles one.
func (s *Session) takeWindow(n uint32) bool {
	if int(n)*2 > s.cfg.MaxStreamWindow || !s.extra.reserve(int64(n)) {
		return false
	}
	if s.cfg.Budget != nil && !s.cfg.Budget.reserve(int64(n)) {
		s.extra.release(int64(n))
		return false
	}
	return true
}

func (s *Session) returnWindow(n uint32) {
	if n == 0 {
		return
	}
	s.extra.release(int64(n))
	if s.cfg.Budget != nil {
		s.cfg.Budget.release(int64(n))
	}
}
