//go:build !unix

package certs

import "os/exec"

// endGroup: this system has no groups of processes; what cmd started lives on.
func endGroup(*exec.Cmd) {}
