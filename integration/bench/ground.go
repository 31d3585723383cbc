package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// ground is the file system that a store lies on: a new one, on a loop device over a file of the
// tmpfs, or a tmpfs. It is ended by its env.
type ground struct {
	env
	fs   string
	disk string // the loop device's name in /sys/block; empty: a tmpfs
}

// groundSize is the size of a ground in bytes.
const groundSize = 4 << 30

// makeGround makes a file system and mounts it on a directory below base, which is e.dir then.
func makeGround(ctx context.Context, t tools, base, fs string) (*ground, error) {
	g := &ground{env: env{tools: t, dir: filepath.Join(base, fs)}, fs: fs}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	if err := g.mount(ctx, base); err != nil {
		return nil, errors.Join(err, g.end(context.WithoutCancel(ctx)))
	}
	return g, nil
}

func (g *ground) mount(ctx context.Context, base string) error {
	source, options := "tmpfs", "size="+strconv.Itoa(groundSize)
	if g.fs != "tmpfs" {
		file := filepath.Join(base, g.fs+".img")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
		g.atEnd(func(context.Context) error { return os.Remove(file) })
		if err := os.Truncate(file, groundSize); err != nil {
			return err
		}
		dev, err := command(ctx, "losetup", "-f", "--show", file)
		if err != nil {
			return err
		}
		g.atEnd(func(ctx context.Context) error { return quietly(ctx, "losetup", "-d", dev) })
		g.disk, source, options = filepath.Base(dev), dev, "rw"
		if err := quietly(ctx, "mkfs."+g.fs, "-q", dev); err != nil {
			return err
		}
	}
	g.atEnd(func(ctx context.Context) error { return quietly(ctx, "umount", g.dir) })
	return quietly(ctx, "mount", "-t", g.fs, "-o", options, source, g.dir)
}

// end takes the file system away, but for the mount point's directory.
func (g *ground) end(ctx context.Context) error {
	var errs []error
	for i := len(g.undo) - 1; i >= 0; i-- {
		errs = append(errs, g.undo[i](ctx))
	}
	g.undo = nil
	return errors.Join(errs...)
}

// store is the directory of the store on the ground.
func (g *ground) store() string { return filepath.Join(g.dir, "store") }

// newStore makes a store on the ground and opens it, without a limit for collections.
func (g *ground) newStore(ctx context.Context) (*objstore.Store, error) {
	if err := objstore.Init(g.store(), objstore.InitOptions{}); err != nil {
		return nil, err
	}
	return objstore.Open(ctx, g.store(), objstore.Options{CollectRate: -1})
}

// usedOn returns the bytes that are used on the file system of a directory, as it says itself.
func usedOn(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	last := int64(-1)
	for {
		for range 2 { // btrfs gives back with the next transaction what one has freed
			if err := unix.Syncfs(int(d.Fd())); err != nil {
				return 0, err
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, err
		}
		used := int64(st.Blocks-st.Bfree) * st.Bsize
		if used == last {
			return used, nil
		}
		last = used
		time.Sleep(usedRest) // xfs gives back in the background what was unlinked
	}
}

// usedRest is how long what is used on a file system does not change before it counts.
const usedRest = 200 * time.Millisecond

// allocated returns the bytes that files below a directory occupy, as du counts them.
func allocated(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		fi, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		}
		return nil
	})
	return n, err
}

// ignoreGone ignores that a file is not there any more: a store at work removes some.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// written returns the bytes that the ground's disk has been given so far.
func (g *ground) written() (int64, error) {
	b, err := os.ReadFile(filepath.Join("/sys/block", g.disk, "stat"))
	if err != nil {
		return 0, err
	}
	const sectorsWritten = 6
	fields := strings.Fields(string(b))
	if len(fields) <= sectorsWritten {
		return 0, fmt.Errorf("read what was written to %s: %q", g.disk, b)
	}
	n, err := strconv.ParseInt(fields[sectorsWritten], 10, 64)
	return n * 512, err
}
