//go:build unix

package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/culvert-tunnel/culvert/internal/socket"
)

// sendSockets sends how many there are, then each with one byte.
func sendSockets(c *net.UnixConn, all []syscall.Conn) error {
	if err := binary.Write(c, binary.BigEndian, uint32(len(all))); err != nil { //nolint:gosec // few
		return fmt.Errorf("hand over: %w", err)
	}
	for _, s := range all {
		raw, err := s.SyscallConn()
		if err != nil {
			return fmt.Errorf("hand over: %w", err)
		}
		// Not by the File of a listener: what that does to the descriptor's mode, it does
		// to the listener's too.
		var sent error
		err = raw.Control(func(fd uintptr) {
			_, _, sent = c.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil) //nolint:gosec // a descriptor
		})
		if err == nil {
			err = sent
		}
		if err != nil {
			return fmt.Errorf("hand over: %w", err)
		}
	}
	return nil
}

// meet asks the running server for its sockets. It returns nil if none is running.
func (s *Server) meetPredecessor(ctx context.Context) (*predecessor, error) {
	path, err := socket.Shorten(filepath.Join(s.cfg.DataDir, upgradeFile))
	if err != nil {
		return nil, err
	}
	defer path.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path.Name)
	if absent(err) {
		return nil, nil //nolint:nilnil // nobody is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("ask the running server: %w", err)
	}
	c := conn.(*net.UnixConn) // what unix dials
	_ = c.SetDeadline(time.Now().Add(handoverTimeout))
	if err := s.receiveSockets(c); err != nil {
		_ = c.Close()
		s.inherited.close()
		return nil, fmt.Errorf("%w: %w", errHandover, err)
	}
	return &predecessor{c}, nil
}

func (s *Server) receiveSockets(c *net.UnixConn) error {
	var n uint32
	if err := binary.Read(c, binary.BigEndian, &n); err != nil {
		return err
	}
	if n > maxInherited {
		return syscall.EMSGSIZE
	}
	oob := make([]byte, syscall.CmsgSpace(4))
	for range n {
		var b [1]byte
		got, oobn, _, _, err := c.ReadMsgUnix(b[:], oob)
		if err != nil {
			return err
		}
		if got == 0 {
			return io.ErrUnexpectedEOF
		}
		messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return syscall.EBADMSG
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			if err := s.inherited.add(os.NewFile(uintptr(fd), "inherited")); err != nil { //nolint:gosec // a descriptor
				return err
			}
		}
	}
	return nil
}
