package procmaps

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const maps = `00400000-00a1c000 r-xp 00000000 fe:00 1234                               /usr/bin/varve
c000000000-c004000000 rw-p 00000000 00:00 0                              [anon: Go: heap]
7f00a0000000-7f00a0100000 rw-s 00000000 fe:01 77                         /srv/my store/index/000001.sst
7ffd1c000000-7ffd1c021000 rw-p 00000000 00:00 0                          [stack]
`
	var got []Mapping
	if err := Parse(strings.NewReader(maps), func(m Mapping) error { got = append(got, m); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []Mapping{
		{0x400000, 0xa1c000, "r-xp", "/usr/bin/varve"},
		{0xc000000000, 0xc004000000, "rw-p", ""},
		{0x7f00a0000000, 0x7f00a0100000, "rw-s", "/srv/my store/index/000001.sst"},
		{0x7ffd1c000000, 0x7ffd1c021000, "rw-p", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("mappings are %+v, want %+v", got, want)
	}
	if err := Parse(strings.NewReader("nonsense\n"), func(Mapping) error { return nil }); err == nil {
		t.Error("nonsense was taken for a map")
	}
}

func TestProgram(t *testing.T) {
	code := 0
	err := Program(func(m Mapping) error {
		if m.End <= m.Start {
			t.Errorf("%+v", m)
		}
		if m.Perms == "r-xp" {
			code++
		}
		return nil
	})
	if err != nil || code != 1 {
		t.Errorf("the program has %d mappings of code: %v", code, err)
	}
}
