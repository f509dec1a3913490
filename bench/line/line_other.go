//go:build !linux

package line

import "errors"

// Line is a path between two network namespaces, which only Linux has.
type Line struct{}

// New says that there is none.
func New(Config) (*Line, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (l *Line) Close() {}

// Near is this machine.
func (l *Line) Near() Host { return Loopback }

// Far is this machine.
func (l *Line) Far() Host { return Loopback }
