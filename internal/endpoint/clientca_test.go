package endpoint

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func caPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestParseCAs(t *testing.T) {
	one, two := caPEM(t), caPEM(t)
	cas, err := ParseCAs("Subject: CN=x\n" + strings.ReplaceAll(one, "\n", "\r\n") + "\n# and\n" + two + "rest")
	if err != nil || cas.PEM != one+two {
		t.Fatalf("%+v, %v", cas, err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("secret")}))
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":       {"", ErrNoCA},
		"no PEM":        {"certificate", ErrNoCA},
		"a key":         {one + key, ErrCAKey},
		"a key alone":   {key, ErrCAKey},
		"too many":      {strings.Repeat(one, MaxClientCA/len(one)+1), ErrCATooLarge},
		"a request":     {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})), nil},
		"no X.509":      {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), nil},
		"a broken last": {one + strings.Replace(two, "A", "B", 1), nil},
	} {
		_, err := ParseCAs(c.text)
		if err == nil && name != "a broken last" || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientCASpec(t *testing.T) {
	ca := caPEM(t)
	spec := Spec{Kind: HTTP, Host: "app.example.com", ClientCA: "# mine\n" + ca}
	if err := spec.Validate(); err != nil || spec.ClientCA != ca {
		t.Errorf("%+v: %v", spec, err)
	}
	pool := Spec{Kind: HTTP, Host: "app.example.com", Pool: Pool{Shared: true}}
	if asks := pool; pool.Terms() == func() string { asks.ClientCA = ca; return asks.Terms() }() {
		t.Error("a pool of members that ask for a certificate and others")
	}
	for _, bad := range []Spec{
		{Kind: TLS, Host: "app.example.com", ClientCA: ca},
		{Kind: TCP, ClientCA: ca},
		{Kind: HTTP, Host: "app.example.com", ClientCA: ca, PlainOnly: true},
		{Kind: HTTP, Host: "app.example.com", ClientCA: ca, Redirect: RedirectNever},
		{Kind: HTTP, ClientCA: "x"},
		{Kind: HTTP, ClientCA: strings.Repeat("\n", MaxClientCA+1) + ca},
	} {
		if err := bad.Validate(); !errors.Is(err, ErrBadSpec) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
