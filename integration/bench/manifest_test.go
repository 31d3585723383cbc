package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestManifestSeesDifferences makes two equal trees, and then changes one thing at a time in one.
func TestManifestSeesDifferences(t *testing.T) {
	changes := map[string]func(top string) error{
		"content": func(top string) error { return os.WriteFile(filepath.Join(top, "d/file"), []byte("twp"), 0o644) },
		"missing": func(top string) error { return os.Remove(filepath.Join(top, "d/file")) },
		"more":    func(top string) error { return os.WriteFile(filepath.Join(top, "d/more"), nil, 0o644) },
		"mode":    func(top string) error { return os.Chmod(filepath.Join(top, "d/file"), 0o755) },
		"link": func(top string) error {
			if err := os.Remove(filepath.Join(top, "link")); err != nil {
				return err
			}
			return os.Symlink("elsewhere", filepath.Join(top, "link"))
		},
	}
	makeTree := func() string {
		top := t.TempDir()
		for _, err := range []error{
			os.Mkdir(filepath.Join(top, "d"), 0o755),
			os.WriteFile(filepath.Join(top, "d/file"), []byte("two"), 0o644),
			os.Symlink("d/file", filepath.Join(top, "link")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return top
	}
	read := func(top string) *manifest {
		m, err := readManifest(t.Context(), top)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := read(makeTree())
	if m := read(makeTree()); m.equal(first) != nil || m.digest() != first.digest() || m.bytes != 3 {
		t.Fatalf("equal trees: %v, %s and %s, %d bytes", m.equal(first), m.digest(), first.digest(), m.bytes)
	}
	for name, change := range changes {
		top := makeTree()
		if err := change(top); err != nil {
			t.Fatal(err)
		}
		m := read(top)
		if err := m.equal(first); err == nil || m.digest() == first.digest() {
			t.Errorf("%s: seen as equal", name)
		} else if !strings.Contains(err.Error(), "1 of") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
