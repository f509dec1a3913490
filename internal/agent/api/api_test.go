package api

import (
	"net"
	"testing"
)

func TestListenTakesTheNextPort(t *testing.T) {
	a, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Listen(t.Context(), a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if a.Addr().(*net.TCPAddr).Port >= b.Addr().(*net.TCPAddr).Port {
		t.Errorf("%v, then %v", a.Addr(), b.Addr())
	}
}
