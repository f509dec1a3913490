package cli

import (
	"slices"
	"testing"
)

func TestUnwritten(t *testing.T) {
	const maps = `00400000-01490000 r-xp 00000000 fe:00 10010961                           /usr/bin/culvert
Size:              16960 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01490000-02740000 r--p 01090000 fe:00 10010961                           /usr/bin/culvert
Anonymous:             4 kB
02740000-028c4000 rw-p 02340000 fe:00 10010961                           /usr/bin/culvert
Anonymous:             0 kB
028c4000-04918000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:00 12                         /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000002000-7f0000003000 r--p 00000000 fe:00 10010961                   /usr/bin/culvert (deleted)
Anonymous:             0 kB
7f0000004000-7f0000005000 r--s 00000000 fe:00 10010961                   /usr/bin/culvert
Anonymous:             0 kB
nonsense
-
7f0000006000-x r--p 00000000 fe:00 10010961                   /usr/bin/culvert
Anonymous:             0 kB
`
	if got := unwritten([]byte(maps), "/usr/bin/culvert"); !slices.Equal(got, []pages{{0x400000, 0x1490000}}) {
		t.Errorf("%x", got)
	}
}

func TestSettle(t *testing.T) {
	if err := settle(); err != nil {
		t.Error(err)
	}
}
