package vfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tree returns the files below a directory, with what is in them.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	}))
	return files
}

// An overlay reads, after any changes, as a directory does in which they were made, and the one
// below stays as it was.
func TestOverlay(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		lower, other := t.TempDir(), t.TempDir()
		for _, name := range []string{"a", "b", "d/c"} {
			data := make([]byte, r.IntN(40000))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			for _, dir := range []string{lower, other} {
				must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o700))
				must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
			}
		}
		before := tree(t, lower)
		base, model := OS(lower), OS(other)
		over := Overlay(base)
		names := []string{"a", "b", "d/c", "d/e", "f"}
		for range 120 {
			name, to := names[r.IntN(len(names))], names[r.IntN(len(names))]
			off, n, fill := r.Int64N(40000), r.Int64N(9000), byte(r.Uint32())
			kind := r.IntN(9)
			do := func(fs FS) error {
				switch kind {
				case 0:
					return fs.Remove(name)
				case 1:
					if name == to {
						return nil
					}
					return fs.Rename(name, to)
				case 2:
					f, err := fs.Create(name)
					if err != nil {
						return err
					}
					return f.Close()
				}
				f, err := fs.Open(name)
				if err != nil {
					return err
				}
				switch kind {
				case 3:
					err = f.Truncate(off)
				case 4:
					err = f.Punch(off, n)
				case 5:
					err = f.Allocate(off, n+1)
				case 6:
					var size int64
					if size, err = f.Size(); err == nil && size >= 2*pageSize {
						var b []byte
						if b, err = f.Map(pageSize, pageSize); err == nil {
							b[len(b)/2] = fill
							err = f.Unmap(b)
						}
					}
				default:
					_, err = f.WriteAt(bytes.Repeat([]byte{fill}, int(n)), off)
				}
				return errors.Join(err, f.Close())
			}
			oerr, merr := do(over), do(model)
			if (oerr == nil) != (merr == nil) || errors.Is(oerr, os.ErrNotExist) != errors.Is(merr, os.ErrNotExist) {
				t.Fatalf("seed %d, operation %d on %s: %v; the model says %v", seed, kind, name, oerr, merr)
			}
		}
		for _, dir := range []string{".", "d"} {
			got, err := over.List(dir)
			must(t, err)
			want, err := model.List(dir)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s has %v, want %v", seed, dir, got, want)
			}
		}
		for path, want := range tree(t, other) {
			name, err := filepath.Rel(other, path)
			must(t, err)
			f, err := over.Open(name)
			must(t, err)
			size, err := f.Size()
			must(t, err)
			got := make([]byte, size)
			if _, err := f.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Fatalf("seed %d: %s has %d bytes, want %d, or other ones", seed, name, len(got), len(want))
			}
			must(t, f.Close())
		}
		if after := tree(t, lower); len(after) != len(before) || !equal(after, before) {
			t.Fatalf("seed %d: the directory below has changed", seed)
		}
		must(t, errors.Join(base.Close(), model.Close()))
	}
}

func equal(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
