package http2

import (
	"errors"
	"slices"
	"sync"

	"golang.org/x/net/http2"
)

var chunks = sync.Pool{New: func() any { return new([bodyChunk]byte) }}

func getChunk() []byte { return chunks.Get().(*[bodyChunk]byte)[:0] }

func putChunk(b []byte) { chunks.Put((*[bodyChunk]byte)(b[:cap(b)])) }

// readFrame takes one frame.
func (c *Conn) readFrame() error {
	h, err := c.framer.ReadFrameHeader()
	if err != nil {
		return err
	}
	isHead := h.Type == http2.FrameHeaders || h.Type == http2.FrameContinuation
	if isHead && c.in.Buffered() < int(h.Length) {
		c.mu.Lock()
		c.setPhaseLocked(heading)
		c.mu.Unlock()
	}
	f, err := c.framer.ReadFrameForHeader(h)
	if stream, ok := errors.AsType[http2.StreamError](err); ok {
		if isHead {
			return fault{stream.Code, "malformed head"} // what it does to the compression is lost
		}
		return c.refuse(stream.StreamID, stream.Code)
	}
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.takeHeaders(f)
	case *http2.ContinuationFrame:
		return c.takeContinuation(f)
	case *http2.DataFrame:
		return c.takeData(f)
	case *http2.WindowUpdateFrame:
		return c.takeWindow(f)
	case *http2.RSTStreamFrame:
		return c.takeReset(f)
	case *http2.SettingsFrame:
		return c.takeSettings(f)
	case *http2.PingFrame:
		return c.takePing(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return c.refuse(f.StreamID, http2.ErrCodeProtocol)
		}
		return c.spend(1)
	case *http2.PushPromiseFrame:
		return fault{http2.ErrCodeProtocol, "a push"}
	}
	return c.spend(1) // GOAWAY: who says it goes when his streams are over; and what is not known
}

var errCalm = fault{http2.ErrCodeEnhanceYourCalm, "too many frames that do nothing"}

func (c *Conn) spend(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spendLocked(n)
}

func (c *Conn) spendLocked(n int) error {
	if !c.mu.credit.spend(n) {
		return errCalm
	}
	return nil
}

// refuse ends a stream by the visitor's fault.
func (c *Conn) refuse(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuseLocked(id, code)
}

func (c *Conn) refuseLocked(id uint32, code http2.ErrCode) error {
	if s := c.mu.streams[id]; s != nil {
		s.resetLocked(code)
	} else {
		c.resetLocked(id, code)
	}
	return c.spendLocked(10)
}

func (c *Conn) takeData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int64(f.Length) // padding counts (RFC 9113, section 6.9.1)
	data := f.Data()
	if c.mu.received+c.mu.unclaimed+n > connWindow {
		return fault{http2.ErrCodeFlowControl, "more than the connection's window"}
	}
	c.mu.received += n
	s := c.mu.streams[f.StreamID]
	if s == nil || s.ended {
		c.droppedLocked(n)
		switch {
		case s == nil && f.StreamID > c.mu.last:
			return fault{http2.ErrCodeProtocol, "a body without a request"}
		case s == nil && c.wasResetLocked(f.StreamID):
			return nil // it was on its way
		}
		return c.refuseLocked(f.StreamID, http2.ErrCodeStreamClosed)
	}
	if n > s.allowed {
		c.droppedLocked(n)
		return c.refuseLocked(f.StreamID, http2.ErrCodeFlowControl)
	}
	s.allowed -= n
	if padding := n - int64(len(data)); padding > 0 {
		c.droppedLocked(padding)
		s.consumed += padding
	}
	if s.left -= int64(len(data)); s.Request.HasLength() && (s.left < 0 || (f.StreamEnded() && s.left != 0)) {
		c.droppedLocked(int64(len(data)))
		return c.refuseLocked(f.StreamID, http2.ErrCodeProtocol)
	}
	s.ended = f.StreamEnded()
	if s.err != nil {
		c.droppedLocked(int64(len(data)))
		if s.ended {
			c.forgetLocked(s)
		}
		return c.spendLocked(1)
	}
	if len(data) == 0 && !s.ended {
		return c.spendLocked(1)
	}
	c.mu.credit.giveFor(len(data))
	s.body.write(data)
	s.reading.wakeLocked()
	if s.over && s.ended {
		c.forgetLocked(s)
	}
	return nil
}

// consumedLocked lets the visitor send as much as was read, in steps that are worth it.
func (c *Conn) consumedLocked(s *Stream, n int) {
	c.droppedLocked(int64(n))
	s.consumed += int64(n)
	if !s.ended && s.err == nil && s.consumed >= streamWindow/4 && c.controlLocked() {
		_ = c.mu.frames.WriteWindowUpdate(s.id, uint32(s.consumed)) //nolint:gosec // at most the window
		s.allowed += s.consumed
		s.consumed = 0
		c.kickLocked()
	}
}

// droppedLocked is consumedLocked for the connection alone.
func (c *Conn) droppedLocked(n int64) {
	c.mu.received -= n
	c.mu.unclaimed += n
	if c.mu.unclaimed >= connWindow/4 && c.controlLocked() {
		_ = c.mu.frames.WriteWindowUpdate(0, uint32(c.mu.unclaimed)) //nolint:gosec // at most the window
		c.mu.unclaimed = 0
		c.kickLocked()
	}
}

// dropLocked drops what came of a body that nobody reads.
func (c *Conn) dropLocked(s *Stream) {
	if n := s.body.drop(); n > 0 {
		c.droppedLocked(int64(n))
	}
}

func (c *Conn) wasResetLocked(id uint32) bool { return slices.Contains(c.mu.resets[:], id) }

func (c *Conn) takeWindow(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.spendLocked(1); err != nil {
		return err
	}
	n := int64(f.Increment)
	if f.StreamID == 0 {
		if c.mu.window += n; c.mu.window > maxWindow {
			return fault{http2.ErrCodeFlowControl, "a window over its limit"}
		}
		c.pumpLocked()
		return nil
	}
	s := c.mu.streams[f.StreamID]
	if s == nil {
		if f.StreamID > c.mu.last {
			return fault{http2.ErrCodeProtocol, "a window without a stream"}
		}
		return nil // it was on its way
	}
	if s.window += n; s.window > maxWindow {
		return c.refuseLocked(f.StreamID, http2.ErrCodeFlowControl)
	}
	c.readyLocked(s)
	c.pumpLocked()
	return nil
}

func (c *Conn) takeReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.streams[f.StreamID]
	if s == nil {
		if f.StreamID > c.mu.last {
			return fault{http2.ErrCodeProtocol, "a reset without a stream"}
		}
		return c.spendLocked(1)
	}
	c.forgetLocked(s)
	s.failLocked(ErrGone)
	if !s.unread && !c.mu.credit.abandon() {
		return fault{http2.ErrCodeEnhanceYourCalm, "too many requests given up"}
	}
	return nil
}

func (c *Conn) takeSettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.spendLocked(1 + f.NumSettings()/16); err != nil {
		return err
	}
	if f.IsAck() {
		if c.mu.settled {
			return fault{http2.ErrCodeProtocol, "settings acknowledged twice"}
		}
		c.mu.settled = true
		return nil
	}
	// In their order (RFC 9113, section 6.5.3).
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			return c.setInitialLocked(int64(s.Val))
		case http2.SettingMaxFrameSize:
			c.mu.maxFrame = min(int(s.Val), frameSize)
		case http2.SettingHeaderTableSize:
			c.mu.fields.SetMaxDynamicTableSize(min(s.Val, 4096))
		default:
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.controlLocked() {
		_ = c.mu.frames.WriteSettingsAck()
	}
	c.pumpLocked()
	return nil
}

// setInitialLocked sets the window that streams begin with, and moves those of the streams
// that are there (RFC 9113, section 6.9.2).
func (c *Conn) setInitialLocked(n int64) error {
	by := n - c.mu.initial
	c.mu.initial = n
	for _, s := range c.mu.streams {
		if s.window += by; s.window > maxWindow {
			return fault{http2.ErrCodeFlowControl, "a window over its limit"}
		}
		c.readyLocked(s)
	}
	return nil
}

func (c *Conn) takePing(f *http2.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.spendLocked(1); err != nil || f.IsAck() {
		return err
	}
	if c.controlLocked() {
		_ = c.mu.frames.WritePing(true, f.Data)
	}
	return nil
}
