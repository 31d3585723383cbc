package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// copiedBytes is how much of the tree is copied, in bytes.
const copiedBytes = 200 << 20

// copyRounds copies a tree to an ext4 on a device, which stays, and then in each round another one,
// deletes it, trims the ext4 and collects. The trees have the names and lengths of real files, and
// other bytes each: equal ones would be stored once, however long nobody collects.
func (r *reclaimRun) copyRounds(ctx context.Context, g *ground) error {
	empty, err := usedOn(g.dir)
	if err != nil {
		return err
	}
	g.size = 2 << 30
	dev, err := startStore(ctx, &g.env, nil)
	if err != nil {
		return err
	}
	mnt := filepath.Join(r.dir, "mnt-"+g.fs)
	if err := errors.Join(os.MkdirAll(mnt, 0o755), quietly(ctx, "mkfs.ext4", "-q", dev.path), quietly(ctx, "mount", dev.path, mnt)); err != nil {
		return err
	}
	g.atEnd(func(ctx context.Context) error { return quietly(ctx, "umount", mnt) })
	bare, err := usedOn(mnt)
	if err != nil {
		return err
	}
	if err := copyTree(r.tree, filepath.Join(mnt, "kept"), 0); err != nil {
		return err
	}
	for round := 1; round <= r.rounds+1; round++ {
		copied := filepath.Join(mnt, "copied")
		if round > r.rounds {
			copied = filepath.Join(mnt, "kept") // in the end all is deleted
		} else if err := copyTree(r.tree, copied, byte(round)); err != nil {
			return err
		}
		most, err := usedSettled(ctx, g, dev, mnt)
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(copied), syncOn(mnt), quietly(ctx, "fstrim", mnt), dev.settle(ctx)); err != nil {
			return err
		}
		report, err := collectIn(ctx, r.varve, g.store())
		if err != nil {
			return err
		}
		live, err := usedOn(mnt)
		if err != nil {
			return err
		}
		used, err := usedOn(g.dir)
		if err != nil {
			return err
		}
		device, err := differentBytes(dev.path)
		if err != nil {
			return err
		}
		used -= empty
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %.2f | %.1f |\n", g.fs, round, (live-bare)>>20, device>>20,
			(most-empty)>>20, used>>20, float64(used)/float64(max(device, 1)), report.Seconds)
	}
	return nil
}

// differentBytes returns how many bytes of a device are in blocks of 16 KiB that are neither zero nor
// like another one: what a store has to keep for it at least.
func differentBytes(dev string) (int64, error) {
	const block = 16 << 10
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_DIRECT, 0) // the page cache of the device is not that of its files
	if err != nil {
		return 0, err
	}
	defer f.Close()
	seen := map[[sha256.Size]byte]struct{}{sha256.Sum256(make([]byte, block)): {}}
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(f, buf)
		for b := range slices.Chunk(buf[:n], block) {
			seen[sha256.Sum256(b)] = struct{}{}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return int64(len(seen)-1) * block, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// usedSettled returns what is used below the store once it has settled what is on the device.
func usedSettled(ctx context.Context, g *ground, dev device, mnt string) (int64, error) {
	if err := errors.Join(syncOn(mnt), dev.settle(ctx)); err != nil {
		return 0, err
	}
	return usedOn(g.dir)
}

func syncOn(dir string) error {
	_, err := usedOn(dir)
	return err
}

// collectIn has a daemon collect at full speed, and returns its report.
func collectIn(ctx context.Context, varve, store string) (objstore.CollectReport, error) {
	var c struct {
		Report objstore.CollectReport `json:"report"`
	}
	if err := quietly(ctx, varve, "set", "--gc-rate", "none", "--store", store); err != nil {
		return c.Report, err
	}
	out, err := command(ctx, varve, "gc", "--wait", "--json", "--store", store)
	if err == nil {
		err = json.Unmarshal([]byte(out), &c)
	}
	return c.Report, err
}

// copyTree copies the first files of a tree, with their bytes encrypted by a key.
func copyTree(from, to string, key byte) error {
	block, err := aes.NewCipher(append(make([]byte, 15), key))
	if err != nil {
		return err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	left := int64(copiedBytes)
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		n, err := copyFile(path, filepath.Join(to, rel), stream)
		if left -= n; err == nil && left <= 0 {
			return fs.SkipAll
		}
		return err
	})
	return err
}

func copyFile(from, to string, stream cipher.Stream) (n int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(out, cipher.StreamReader{S: stream, R: in})
	return n, errors.Join(err, out.Close())
}
