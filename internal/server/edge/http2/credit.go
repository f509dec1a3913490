package http2

// credit bounds frames that do nothing by what is done: who sends pings, settings,
// resets, window updates or empty frames uses it up, what he makes of the connection
// otherwise brings it back. A browser that goes through a page needs a frame or three for
// each frame of ours; gRPC asks for one ping in a round trip that moves data.
type credit struct {
	left   int
	resets int
	at     int64 // when it was last filled up, in Look's time
}

const (
	maxCredit = 4000
	maxResets = 500
	// What comes back every second.
	creditRate = 200
	resetRate  = 100
	// creditBytes sent or received bring one back.
	creditBytes = 512
)

func (c *credit) reset() { c.left, c.resets = maxCredit, maxResets }

// spend takes n and reports whether they were there.
func (c *credit) spend(n int) bool {
	c.left -= n
	return c.left >= 0
}

// give brings n back.
func (c *credit) give(n int) { c.left = min(c.left+n, maxCredit) }

// giveFor brings back what n bytes of a body are worth.
func (c *credit) giveFor(n int) { c.give(n / creditBytes) }

// abandon takes one of the requests that may be given up.
func (c *credit) abandon() bool {
	c.resets--
	return c.resets >= 0
}

// pass lets time pass.
func (c *credit) pass(now int64) {
	const second = int64(1e9)
	if c.at == 0 {
		c.at = now
	}
	if n := (now - c.at) * creditRate / second; n > 0 {
		c.give(int(min(n, maxCredit)))
		c.resets = min(c.resets+int(min(n*resetRate/creditRate, maxResets)), maxResets)
		c.at = now
	}
}
