//go:build !linux

package cli

import "runtime/debug"

// settle gives back the memory that only starting took.
func settle() error {
	debug.FreeOSMemory()
	return nil
}
