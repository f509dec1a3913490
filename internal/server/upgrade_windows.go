package server

import (
	"context"
	"net"
	"syscall"
)

func sendSockets(*net.UnixConn, []syscall.Conn) error { return ErrNoUpgrade }

func (s *Server) meetPredecessor(context.Context) (*predecessor, error) { return nil, ErrNoUpgrade }
