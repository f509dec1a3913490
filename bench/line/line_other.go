//go:build !linux

package line

import (
	"context"
	"errors"
	"net"
)

// Line is a path between two network namespaces, which only Linux has.
type Line struct{}

// New says that there is none.
func New(Config) (*Line, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (l *Line) Close() {}

// Listen says that there is no line.
func (l *Line) Listen(context.Context) (net.Listener, error) { return nil, errors.ErrUnsupported }

// Dial says that there is no line.
func (l *Line) Dial(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }
