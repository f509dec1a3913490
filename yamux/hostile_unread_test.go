package yamux

import (
	"bytes"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestHostilePingsUnread: an other side that pings at a bearable rate but reads no
// answer ends its session before the answers fill memory.
func TestHostilePingsUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := run(t, Server(b, Config{}))
		pings := bytes.Repeat(header{kind: typePing, flags: flagSYN}.appendTo(nil), 500)
		began := time.Now()
		for s.Err() == nil && time.Since(began) < time.Hour {
			if _, err := a.Write(pings); err != nil {
				break
			}
			<-time.After(time.Second)
		}
		<-s.Done()
		is(t, s.Err(), ErrFlood)
		a.Close()
	})
}

// TestHostileResetsUnread: nor does one that opens streams, has them reset, and
// reads none of it.
func TestHostileResetsUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := run(t, Server(b, Config{}))
		go func() {
			for {
				st, err := s.Accept(t.Context())
				if err != nil {
					return
				}
				_ = st.Close()
			}
		}()
		data := func(id uint32, flags uint16) []byte {
			return append(header{kind: typeData, flags: flags, stream: id, length: 1}.appendTo(nil), 0)
		}
		for id := uint32(1); s.Err() == nil && id < 400_000; id += 2 * 200 {
			var opens, more []byte
			for i := id; i < id+2*200; i += 2 {
				opens = append(opens, data(i, flagSYN)...)
				more = append(more, data(i, 0)...)
			}
			_, _ = a.Write(opens)
			synctest.Wait()
			_, _ = a.Write(more)
			synctest.Wait()
		}
		<-s.Done()
		is(t, s.Err(), ErrFlood)
		a.Close()
	})
}
