// Package harness is what the tests with real processes begin with: the built binary,
// processes and their log lines, waiting.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// Main builds culvert, with the race detector if CULVERT_TEST_RACE is set, says where it
// is, and runs the tests.
func Main(m *testing.M, binary *string) {
	dir, err := os.MkdirTemp("", "culvert-test-")
	if err != nil {
		panic(err)
	}
	*binary = filepath.Join(dir, "culvert")
	args := []string{"build", "-o", *binary}
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		args = append(args, "-race") // what the processes race on shows in their exit codes and on stderr
	}
	out, err := exec.Command("go", append(args, "github.com/culvert-tunnel/culvert/cmd/culvert")...).CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("build culvert: %v\n%s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds Eventually.
const patience = 20 * time.Second

// Eventually polls until ok, for what shows no event.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not in time: %s", what)
		}
	}
}

var nextPorts atomic.Int64

// Ports returns a range of n ports for the endpoints of one server: below the ephemeral
// ones, and no other's of this process.
func Ports(n int64) string {
	first := 20000 + (int64(os.Getpid())*n+nextPorts.Add(n))%12000
	return fmt.Sprintf("%d-%d", first, first+n-1)
}
