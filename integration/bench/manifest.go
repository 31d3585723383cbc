package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// manifest is what is in a tree of files: for each, by its path from the top, its mode and the
// SHA-256 of its content, or of the target of a symbolic link.
type manifest struct {
	files map[string]string
	bytes int64
}

// readManifest reads every file below top.
func readManifest(ctx context.Context, top string) (*manifest, error) {
	m := &manifest{files: map[string]string{}}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		sum := sha256.New()
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			_, _ = io.WriteString(sum, target)
		case fi.Mode().IsRegular():
			n, err := copyContent(sum, path)
			if err != nil {
				return err
			}
			m.bytes += n
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		m.files[name] = fi.Mode().String() + " " + hex.EncodeToString(sum.Sum(nil))
		return nil
	})
	return m, err
}

// copyContent writes the content of a file to w, and returns its length.
func copyContent(w io.Writer, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, f)
}

// sum returns the SHA-256 of one file, empty if it is not there.
func (m *manifest) sum(name string) string {
	_, sum, _ := strings.Cut(m.files[name], " ")
	return sum
}

// digest is the SHA-256 of all lines.
func (m *manifest) digest() string {
	sum := sha256.New()
	for _, name := range sortedKeys(m.files) {
		fmt.Fprintf(sum, "%s %q\n", m.files[name], name)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// equal returns an error that names the first files in which two trees differ.
func (m *manifest) equal(other *manifest) error {
	var differ []string
	for _, name := range sortedKeys(m.files) {
		if other.files[name] != m.files[name] {
			differ = append(differ, name)
		}
	}
	for _, name := range sortedKeys(other.files) {
		if _, ok := m.files[name]; !ok {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d files differ from those of the first build: %s", len(differ), len(m.files),
		strings.Join(differ[:min(10, len(differ))], ", "))
}

func sortedKeys(files map[string]string) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
