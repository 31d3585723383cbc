// Package blockstack finds the block devices below a directory: those of its file system, and the
// devices below them, down to the disks, through partitions, device mapper, md and loop devices.
//
//	/srv/store   mountinfo: the mount that the path is in, its device
//	  dm-0       /sys/dev/block/MAJOR:MINOR, slaves/
//	    loop3    loop/backing_file, a path again
//	      sda1   partition: its disk
//	        sda
//
// File systems without a device number of their own are followed where the kernel shows what is
// below: btrfs (all its devices), overlayfs (its directories), others by the devices in their
// source. FUSE ends the walk, and its mount point is reported.
package blockstack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Layer is a device or FUSE mount below a directory.
type Layer struct {
	// Path is the device node, /dev/ublkb0, or the directory of a FUSE mount.
	Path string
	// Over are the layers between the directory and this one, from the top.
	Over []string
}

// String is the way down: "/dev/ublkb0, below /dev/dm-0".
func (l Layer) String() string {
	if len(l.Over) == 0 {
		return l.Path
	}
	over := slices.Clone(l.Over)
	slices.Reverse(over)
	return l.Path + ", below " + strings.Join(over, ", below ")
}

// Below returns all layers below a directory or file, each once, from the top; a block device is
// the first of its own layers. Symbolic links in path are followed.
func Below(path string) ([]Layer, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return belowDevice("", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	return below("", path)
}

// belowDevice is below for a block device, by its number.
func belowDevice(root, number string) ([]Layer, error) {
	w := walk{root: root, seen: map[string]bool{}}
	if err := w.readMounts(); err != nil {
		return nil, fmt.Errorf("find the layers below device %s: %w", number, err)
	}
	if err := w.device(root+"/sys/dev/block/"+number, nil); err != nil {
		return nil, fmt.Errorf("find the layers below device %s: %w", number, err)
	}
	return w.layers, nil
}

// below is for a system whose /proc, /sys and /dev are below root.
func below(root, path string) ([]Layer, error) {
	if root == "" {
		var err error
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	}
	w := walk{root: root, seen: map[string]bool{}}
	if err := w.readMounts(); err != nil {
		return nil, fmt.Errorf("find the layers below %s: %w", path, err)
	}
	if err := w.path(path, nil); err != nil {
		return nil, fmt.Errorf("find the layers below %s: %w", path, err)
	}
	return w.layers, nil
}

type walk struct {
	root   string
	mounts []*mountinfo.Info
	seen   map[string]bool
	layers []Layer
}

func (w *walk) readMounts() error {
	f, err := os.Open(w.root + "/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	w.mounts, err = mountinfo.GetMountsFromReader(f, nil)
	return err
}

// Unescape decodes the octal escapes in the kernel's lists of paths.
func Unescape(path string) string { return unescape.Replace(path) }

// unescape decodes the octal escapes in mount options, which mountinfo does not.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// path follows the mount that a path is in: the one with the longest mount point, and the last of
// equal ones.
func (w *walk) path(path string, over []string) error {
	var in *mountinfo.Info
	for _, m := range w.mounts {
		at := m.Mountpoint
		if (path == at || strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/")) && (in == nil || len(at) >= len(in.Mountpoint)) {
			in = m
		}
	}
	if in == nil {
		return nil // not in this mount namespace
	}
	switch {
	case in.Major != 0:
		return w.device(fmt.Sprintf("%s/sys/dev/block/%d:%d", w.root, in.Major, in.Minor), over)
	case in.FSType == "fuse" || strings.HasPrefix(in.FSType, "fuse."):
		w.add(in.Mountpoint, over)
		return nil
	case in.FSType == "overlay":
		return w.overlay(in, over)
	}
	var errs []error
	for _, source := range strings.Split(in.Source, ":") {
		if node, err := filepath.EvalSymlinks(w.root + source); err == nil && strings.HasPrefix(source, "/dev/") {
			errs = append(errs, w.multi(in.FSType, filepath.Base(node), over))
		}
	}
	return errors.Join(errs...)
}

// multi follows a device, and the other devices of the same btrfs.
func (w *walk) multi(kind, name string, over []string) error {
	errs := []error{w.named(name, over)}
	if kind == "btrfs" {
		all, err := filepath.Glob(w.root + "/sys/fs/btrfs/*/devices/" + name)
		errs = append(errs, err)
		for _, one := range all {
			siblings, err := os.ReadDir(filepath.Dir(one))
			errs = append(errs, err)
			for _, s := range siblings {
				errs = append(errs, w.named(s.Name(), over))
			}
		}
	}
	return errors.Join(errs...)
}

func (w *walk) overlay(m *mountinfo.Info, over []string) error {
	var errs []error
	for _, o := range strings.Split(unescape.Replace(m.VFSOptions), ",") {
		key, dirs, _ := strings.Cut(o, "=")
		if key != "upperdir" && key != "lowerdir" && key != "lowerdir+" && key != "datadir+" {
			continue
		}
		for _, dir := range strings.Split(dirs, ":") {
			if filepath.IsAbs(dir) && !w.seen["overlay "+dir] {
				w.seen["overlay "+dir] = true
				errs = append(errs, w.path(dir, over))
			}
		}
	}
	return errors.Join(errs...)
}

func (w *walk) named(name string, over []string) error {
	return w.device(w.root+"/sys/class/block/"+name, over)
}

// add adds a layer, and reports whether it is new.
func (w *walk) add(path string, over []string) bool {
	if w.seen[path] {
		return false
	}
	w.seen[path] = true
	w.layers = append(w.layers, Layer{Path: path, Over: over})
	return true
}

// device follows a block device, by its directory in sysfs.
func (w *walk) device(link string, over []string) error {
	dir, err := filepath.EvalSymlinks(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	node := "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/") // "cciss!c0d0"
	if !w.add(node, over) {
		return nil
	}
	below := append(slices.Clone(over), node)
	if _, err := os.Stat(dir + "/partition"); err == nil {
		return w.device(filepath.Dir(dir), below)
	}
	slaves, err := os.ReadDir(dir + "/slaves")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, s := range slaves {
		errs = append(errs, w.device(dir+"/slaves/"+s.Name(), below))
	}
	file, err := os.ReadFile(dir + "/loop/backing_file")
	if err == nil {
		path := strings.TrimSuffix(strings.TrimSuffix(string(file), "\n"), " (deleted)")
		errs = append(errs, w.path(path, below))
	}
	return errors.Join(errs...)
}
