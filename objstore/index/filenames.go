package index

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// numbered are the endings of the files that badger numbers, and the least digits of their numbers
// (table/table.go, NewFilename; value.go, vlogFilePath; memtable.go, mtFilePath, v4.9.6).
var numbered = map[string]int{".sst": 6, ".vlog": 6, ".mem": 5}

// named are the other files of badger, and ours.
var named = []string{
	"MANIFEST", "MANIFEST-REWRITE", "KEYREGISTRY", "REWRITE-KEYREGISTRY", "LOCK", "DISCARD", suspectFile, uncleanFile,
}

// ownName reports a file of the index: by its name, in the one form in which it is written.
func ownName(name string) bool {
	if slices.Contains(named, name) {
		return true
	}
	ext := filepath.Ext(name)
	digits, ok := numbered[ext]
	if !ok {
		return false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(name, ext), 10, 64)
	return err == nil && name == fmt.Sprintf("%0*d%s", digits, n, ext)
}

// mistaken reports a stray that badger would take for one of its files, of the same number, or not
// open the index for.
func mistaken(name string) bool {
	ext := filepath.Ext(name)
	if ext == ".sst" {
		_, err := strconv.Atoi(strings.TrimSuffix(name, ext)) // others it leaves alone
		return err == nil
	}
	_, ok := numbered[ext]
	return ok
}

// lookForStrays names the files of the directory that are none of the index's. With one that badger
// would mistake for its own, the index can't be used: to put things right, badger deletes what it
// does not know.
func lookForStrays(dir string, log *slog.Logger) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case ownName(name), name == secondDir:
		case mistaken(name):
			return fmt.Errorf("%w: %s is not one of its files, but has such a name; move it away", ErrUnusable, filepath.Join(dir, name))
		default:
			log.Warn("a file does not belong to the index; it is left alone", "file", filepath.Join(dir, name))
		}
	}
	return nil
}

// removeOwn deletes the files of the index.
func removeOwn(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if ownName(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
