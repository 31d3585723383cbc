//go:build integration

package integration

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// entry is the properties that a copy of a file must share with it.
type entry struct {
	mode fs.FileMode
	size int64
	sum  [sha256.Size]byte
	link string
}

// source is a real tree, the Go toolchain's own source, copied into memory once, and its manifest.
var source = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "source")
	if err != nil {
		return "", err
	}
	root := os.Getenv("GOROOT")
	if root == "" {
		root = runtime.GOROOT() //nolint:staticcheck // the fallback outside integration/run
	}
	r := run(context.Background(), "cp", "-a", filepath.Join(root, "src"), dir)
	if r.code != 0 {
		return "", fmt.Errorf("copy %s/src: %s", root, r.stderr)
	}
	return filepath.Join(dir, "src"), nil
})

var sourceManifest = sync.OnceValues(func() (map[string]entry, error) {
	dir, err := source()
	if err != nil {
		return nil, err
	}
	return manifest(dir)
})

// partManifest returns the manifest of one directory of the source tree; "." is all of it.
func partManifest(part string) (map[string]entry, error) {
	all, err := sourceManifest()
	if err != nil || part == "." {
		return all, err
	}
	m := map[string]entry{".": all[part]}
	for path, e := range all {
		if rel, ok := strings.CutPrefix(path, part+"/"); ok {
			m[rel] = e
		}
	}
	return m, nil
}

// sourceTree returns the directory of the tree that tests copy.
func sourceTree(t *testing.T) string {
	t.Helper()
	dir, err := source()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// dropCaches drops the clean pages, dentries and inodes that the kernel caches.
func dropCaches(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

// manifest reads a whole tree.
func manifest(dir string) (map[string]entry, error) {
	m := map[string]entry{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{mode: info.Mode()}
		switch {
		case info.Mode().IsRegular():
			e.size = info.Size()
			if e.sum, err = sumFile(path); err != nil {
				return err
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if e.link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		m[rel] = e
		return nil
	})
	return m, err
}

// sumFile returns the SHA-256 of a file's or device's content.
func sumFile(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// sum is sumFile for a file that must be readable.
func sum(t *testing.T, path string) string {
	t.Helper()
	s, err := sumFile(path)
	if err != nil {
		t.Fatalf("sha256 of %s: %v", path, err)
	}
	return fmt.Sprintf("%x", s)
}

// compareTree checks that dir has exactly the content of the source tree.
func compareTree(t *testing.T, dir string) {
	t.Helper()
	comparePart(t, dir, ".")
}

// comparePart checks that dir has exactly the content of one directory of the source tree.
func comparePart(t *testing.T, dir, part string) {
	t.Helper()
	want, err := partManifest(part)
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest(dir)
	if err != nil {
		t.Fatalf("read the copy: %v", err)
	}
	bad := 0
	for path, w := range want {
		if g, ok := got[path]; !ok || g != w {
			if bad++; bad <= 5 {
				t.Errorf("%s: got %+v (there: %v), want %+v", path, g, ok, w)
			}
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			if bad++; bad <= 5 {
				t.Errorf("%s: not in the source tree", path)
			}
		}
	}
	if bad > 0 {
		t.Fatalf("%d of %d files differ from the source tree", bad, len(want))
	}
	if least := map[string]int{".": 5000}[part]; len(want) < max(least, 300) {
		t.Fatalf("%s of the source tree has %d files only: not the real tree", part, len(want))
	}
}
