package cli

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"50MiB": 50 << 20, "1GiB": 1 << 30, "512 KiB": 512 << 10, "100": 100, "64GiB": 64 << 30} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v, want %d", text, s, err, want)
		}
		var again size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%s is shown as %s: %v", text, s.String(), err)
		}
	}
	for _, text := range []string{"", "0", "-1", "x", "1MB", "65GiB", "9223372036854775807KiB", "1.5MiB"} {
		var s size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}
