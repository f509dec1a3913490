package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// terminal opens a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	check(t, err)
	t.Cleanup(func() { _ = master.Close() })
	var number, unlock int32
	ioctl(t, master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	ioctl(t, master, syscall.TIOCGPTN, unsafe.Pointer(&number))
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	check(t, err)
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

func ioctl(t *testing.T, f *os.File, what uintptr, arg unsafe.Pointer) {
	t.Helper()
	raw, err := f.SyscallConn()
	check(t, err)
	var errno syscall.Errno
	check(t, raw.Control(func(fd uintptr) { _, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, what, uintptr(arg)) }))
	if errno != 0 {
		t.Fatal(errno)
	}
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	var state syscall.Termios
	ioctl(t, f, syscall.TCGETS, unsafe.Pointer(&state))
	return state.Lflag&syscall.ECHO != 0
}

// TestLoginOnATerminal: the token is typed unseen, and Ctrl-C ends the asking and
// leaves the terminal as it was.
func TestLoginOnATerminal(t *testing.T) {
	const token = "cvt_abcdefghij_kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
	for typed, code := range map[string]int{token + "\n": 0, "\x03": 1} {
		master, slave := terminal(t)
		var mu sync.Mutex
		var shown bytes.Buffer
		go func() { // ends with the terminal
			for buf := make([]byte, 1024); ; {
				n, err := master.Read(buf)
				mu.Lock()
				shown.Write(buf[:n])
				mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
		home := t.TempDir()
		cmd := exec.CommandContext(t.Context(), binary, "login", "--server", "tunnel.example.com")
		cmd.Env = []string{"HOME=" + home}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		check(t, cmd.Start())
		eventually(t, "the token to be asked for", func() bool { return !echoes(t, slave) })
		_, err := master.WriteString(typed)
		check(t, err)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != code || !echoes(t, slave) {
			t.Errorf("%q: exit code %d, echo %v", typed, got, echoes(t, slave))
		}
		_, err = os.Stat(filepath.Join(home, ".config", "culvert", "login.yml"))
		if saved := err == nil; saved != (code == 0) {
			t.Errorf("%q: saved: %v", typed, saved)
		}
		mu.Lock()
		if s := shown.String(); strings.Contains(s, "kkkk") {
			t.Errorf("the terminal shows %q", s)
		}
		mu.Unlock()
	}
}
