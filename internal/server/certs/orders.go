package certs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// orders knows which names need a certificate of the CA, and sees to it that each is
// loaded or ordered: at once when it is first wanted, again after a pause that grows
// when that failed, no more when nobody needs the name any longer. Renewing what is
// there is CertMagic's.
type orders struct {
	// attempt loads the certificate of a subject, or orders it.
	attempt func(ctx context.Context, subject string) error
	// drop gives up the certificate of a subject that nobody needs any longer.
	drop func(subject string)
	// needed reports whether a subject is an endpoint's now.
	needed func(subject string) bool
	// failed is told of each attempt that failed. It must not block.
	failed func(subject string, err error)
	log    *slog.Logger

	wake chan struct{} // has room for one: something is due

	mu struct {
		sync.Mutex
		names map[string]*order
		due   []string
	}
}

// order is the state of one subject. All fields are guarded by orders.mu.
type order struct {
	always   bool          // the node's own: needed for ever
	needed   time.Time     // when it was last known to be needed
	began    time.Time     // when the first attempt was asked for; doesn't change, like first
	first    chan struct{} // closed at the end of the first attempt
	busy     bool          // an attempt is under way, or about to be
	have     bool          // there is a certificate; CertMagic renews it
	failures int           // since the last success
	last     time.Time     // when the last attempt ended
	next     time.Time     // when the next one may begin, after a failure
	err      error         // of the last attempt
}

// Times of orders.
const (
	tick         = 30 * time.Second   // how often retries and names that nobody needs are looked for
	keepFor      = 7 * 24 * time.Hour // how long a certificate is renewed for a name that nobody binds
	rebindPause  = 10 * time.Minute   // the longest pause after a failure for a name that is bound anew
	maxAttempt   = 6 * time.Minute    // for one attempt: DNS may take minutes to spread
	waitForFirst = 20 * time.Second   // for visitors, from the beginning of the first attempt
)

// pauses are those after 1, 2, … failures; the last repeats.
var pauses = []time.Duration{
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour,
}

func pause(failures int) time.Duration { return pauses[min(failures, len(pauses))-1] }

func newOrders(log *slog.Logger) *orders {
	o := &orders{log: log, wake: make(chan struct{}, 1)}
	o.mu.names = make(map[string]*order)
	return o
}

// want says that a subject is needed now. It returns the error that stands in its
// way, if the last attempt failed.
func (o *orders) want(subject string, always bool) error {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.mu.names[subject]
	if n == nil {
		n = &order{began: now, first: make(chan struct{})}
		o.mu.names[subject] = n
		o.dueLocked(subject, n)
	}
	n.always, n.needed = n.always || always, now
	if errors.Is(n.err, errNotNeeded) && !n.busy {
		n.err, n.failures = nil, 0
		o.dueLocked(subject, n)
	}
	if n.err != nil {
		// Whoever binds a name anew may have mended what was wrong. Yet one who does
		// so all the time must not use up the CA's patience with this name.
		if soon := n.last.Add(rebindPause); soon.Before(n.next) {
			n.next = soon
		}
	}
	return n.err
}

func (o *orders) dueLocked(subject string, n *order) {
	n.busy = true
	o.mu.due = append(o.mu.due, subject)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// has reports whether a subject is wanted, or was lately.
func (o *orders) has(subject string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.names[subject] != nil
}

// wait waits for the first attempt for a subject, but not for longer than
// waitForFirst from its beginning. One that nobody asked for yet begins now.
func (o *orders) wait(ctx context.Context, subject string) {
	o.mu.Lock()
	n := o.mu.names[subject]
	o.mu.Unlock()
	if n == nil {
		_ = o.want(subject, false)
		o.wait(ctx, subject)
		return
	}
	timeout := time.NewTimer(time.Until(n.began.Add(waitForFirst)))
	defer timeout.Stop()
	select {
	case <-n.first:
	case <-timeout.C:
	case <-ctx.Done():
	}
}

// run makes the attempts until ctx ends, and returns when the last has ended.
func (o *orders) run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			o.review()
		case <-o.wake:
		}
		o.mu.Lock()
		due := o.mu.due
		o.mu.due = nil
		o.mu.Unlock()
		for _, subject := range due {
			tasks.Go(func() { o.try(ctx, subject) })
		}
	}
}

// try makes one attempt.
func (o *orders) try(ctx context.Context, subject string) {
	attempt, cancel := context.WithTimeout(ctx, maxAttempt)
	defer cancel()
	err := o.attempt(attempt, subject)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	o.mu.Lock()
	n := o.mu.names[subject]
	n.busy, n.have, n.err, n.last = false, err == nil, err, now
	if err == nil {
		n.failures = 0
	} else {
		n.failures++
		n.next = now.Add(pause(n.failures))
	}
	select {
	case <-n.first:
	default:
		close(n.first)
	}
	next := n.next
	o.mu.Unlock()
	if err != nil && !errors.Is(err, errNotNeeded) {
		o.log.Warn("no certificate", "host", subject, "error", err, "retry_in", time.Until(next).Round(time.Second).String())
		o.failed(subject, err)
	}
}

// review asks for the attempts whose pause is over, and forgets what nobody needs.
func (o *orders) review() {
	now := time.Now()
	var subjects, gone []string
	o.mu.Lock()
	for subject := range o.mu.names {
		subjects = append(subjects, subject)
	}
	o.mu.Unlock()
	for _, subject := range subjects {
		needed := o.needed(subject) // without the lock: it asks others
		o.mu.Lock()
		n := o.mu.names[subject]
		switch {
		case n.busy:
		case n.always || needed:
			n.needed = now
			if n.err != nil && now.After(n.next) {
				o.dueLocked(subject, n)
			}
		case !n.have || now.Sub(n.needed) > keepFor:
			delete(o.mu.names, subject)
			gone = append(gone, subject)
		}
		o.mu.Unlock()
	}
	for _, subject := range gone {
		o.drop(subject)
	}
}

// errNotNeeded says that a name was given up before its order began.
var errNotNeeded = errors.New("nobody binds this name any longer")

// orderState is what an operator sees of an order.
type orderState struct {
	err  error
	next time.Time
	busy bool
}

// states returns what is known of all subjects.
func (o *orders) states() map[string]orderState {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]orderState, len(o.mu.names))
	for subject, n := range o.mu.names {
		all[subject] = orderState{err: n.err, next: n.next, busy: n.busy}
	}
	return all
}
