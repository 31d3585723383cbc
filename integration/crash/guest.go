package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"varve/integration/facts"
)

// guest is what runs in the machine: it checks what the machines before it were told, and goes on
// working.
type guest struct {
	dir, lower, varve string
	round             int
	seed              uint64
	only              bool // check, and end
	book              *notebook
	store             string
	devices           map[string]string
}

const (
	disk      = "/dev/ubda"
	lowerDir  = "/run/lower"
	rawVolume = "raw"
	rawSize   = 32 << 20
)

// volumes are those with a filesystem.
var volumes = []struct{ name, fs string }{{"e", "ext4"}, {"x", "xfs"}}

func guestMain(args []string) int {
	g := &guest{devices: map[string]string{}}
	f := flag.NewFlagSet("crash guest", flag.ExitOnError)
	f.StringVar(&g.dir, "dir", "", "directory of the host with what is known")
	f.IntVar(&g.round, "round", 0, "which machine this is")
	f.Uint64Var(&g.seed, "seed", 1, "where the random choices begin")
	f.StringVar(&g.lower, "lower", "ext4", "filesystem under the store")
	f.StringVar(&g.varve, "varve", "bin/varve", "the program")
	f.BoolVar(&g.only, "check", false, "check and end")
	_ = f.Parse(args) // it exits
	if err := g.run(); err != nil {
		fmt.Printf("guest: FAILED in round %d: %v\n", g.round, err)
		_, _ = io.Copy(os.Stdout, g.daemonLog())
		return 1
	}
	return 0
}

func (g *guest) daemonLog() io.Reader {
	b, _ := os.ReadFile(filepath.Join(g.store, "varve.log"))
	return strings.NewReader(tail(string(b), 60) + "\n")
}

func (g *guest) run() error {
	var err error
	if g.book, err = openNotebook(g.dir); err != nil {
		return err
	}
	g.store = lowerDir + "/store"
	if err := os.MkdirAll(lowerDir, 0o755); err != nil {
		return err
	}
	if g.round == 0 {
		if _, err := command(append(mkfs(g.lower), disk)...); err != nil {
			return err
		}
	}
	if _, err := command("mount", disk, lowerDir); err != nil {
		return err
	}
	if g.round == 0 {
		if _, err := g.do("init"); err != nil {
			return err
		}
	}
	if _, err := g.do("serve", "--background", "--tail-soft", "8M", "--settle-delay", "300ms", "--journal-records", "2048"); err != nil {
		return err
	}
	if g.round == 0 {
		err = g.setUp()
	} else {
		err = g.check()
	}
	if err != nil {
		return err
	}
	if g.only {
		return g.end()
	}
	return g.load()
}

// command runs a program and returns its output, which is in an error as well.
func command(args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func (g *guest) do(args ...string) (string, error) {
	return command(append([]string{g.varve, "--store", g.store}, args...)...)
}

func mkfs(fs string) []string {
	if fs == "xfs" {
		return []string{"mkfs.xfs", "-q", "-f"}
	}
	return []string{"mkfs.ext4", "-q", "-F"}
}

func fsck(fs string) []string {
	if fs == "xfs" {
		return []string{"xfs_repair", "-n"}
	}
	return []string{"e2fsck", "-fn"}
}

func (g *guest) setUp() error {
	for _, v := range volumes {
		if _, err := g.do("volume", "create", v.name, "--size", "512M"); err != nil {
			return err
		}
		dev, err := g.do("attach", v.name)
		if err != nil {
			return err
		}
		g.devices[v.name] = dev
		if _, err := command(append(mkfs(v.fs), dev)...); err != nil {
			return err
		}
	}
	if _, err := g.do("volume", "create", rawVolume, "--size", fmt.Sprint(rawSize)); err != nil {
		return err
	}
	dev, err := g.do("attach", rawVolume)
	g.devices[rawVolume] = dev
	return err
}

// check looks for everything that the machines before this one were told.
func (g *guest) check() error {
	began := time.Now()
	want := facts.Expect(g.book.list)
	if err := g.checkSnapshots(want); err != nil {
		return err
	}
	for _, name := range []string{"e", "x", rawVolume} {
		dev, err := g.do("attach", name)
		if err != nil {
			return err
		}
		g.devices[name] = dev
	}
	sectors, err := g.checkRaw()
	if err != nil {
		return err
	}
	files := 0
	for _, v := range volumes {
		n, err := g.checkFilesystem(v.name, v.fs, want)
		if err != nil {
			return err
		}
		files += n
	}
	fmt.Printf("crash: 1 recoveries of a killed machine\ncrash: %d files checked\ncrash: %d sectors checked\ncrash: %d snapshots checked\n", files, sectors, len(want.Snapshots))
	fmt.Printf("guest: checked in %v\n", time.Since(began).Round(time.Millisecond))
	return nil
}

func (g *guest) checkSnapshots(want *facts.Expected) error {
	out, err := g.do("snapshot", "list", "--json")
	if err != nil {
		return err
	}
	var list []struct{ Volume, Name, Root string }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	there := map[facts.ID]string{}
	for _, s := range list {
		id := facts.ID{Volume: s.Volume, Name: s.Name}
		if there[id] = s.Root; want.Gone[id] {
			return fmt.Errorf("snapshot %s@%s was deleted and is there again", s.Volume, s.Name)
		}
	}
	for id, f := range want.Snapshots {
		if there[id] != f.Root {
			return fmt.Errorf("snapshot %s@%s has root %q, and had %s when it was made", id.Volume, id.Name, there[id], f.Root)
		}
	}
	mnt := "/run/varve"
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return err
	}
	if _, err := g.do("mount", mnt); err != nil {
		return err
	}
	for id, f := range want.Snapshots {
		sum, err := sumOfFile(filepath.Join(mnt, "snapshots", id.Volume, id.Name, "disk.img"))
		if err != nil {
			return err
		}
		if err := g.sameContent(f.Root, sum); err != nil {
			return fmt.Errorf("snapshot %s@%s: %w", id.Volume, id.Name, err)
		}
	}
	_, err = g.do("umount", mnt)
	return err
}

// sameContent holds a snapshot's content against what an earlier machine has seen under the same
// root.
func (g *guest) sameContent(root, sum string) error {
	dir := filepath.Join(g.dir, "roots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(dir, root)
	old, err := os.ReadFile(name)
	if err == nil && len(old) == len(sum) {
		if string(old) != sum {
			return fmt.Errorf("root %s has content %s, and had %s", root, sum, old)
		}
		return nil
	}
	return os.WriteFile(name, []byte(sum), 0o600)
}

// sumOfFile hashes the bytes of a sparse file that are not zeroes, with their offsets.
func sumOfFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		var data int64
		err := again(func() (err error) { // a mount answers with EINTR where a signal interrupts it
			data, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
			return err
		})
		if errors.Is(err, unix.ENXIO) {
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		at = data / 4096 * 4096
		n, err := f.ReadAt(buf, at)
		if n == 0 {
			return "", err
		}
		for o := 0; o < n; o += 4096 {
			p := buf[o:min(o+4096, n)]
			if bytes.Count(p, []byte{0}) != len(p) {
				fmt.Fprint(h, at+int64(o))
				_, _ = h.Write(p)
			}
		}
		at += int64(n)
	}
}

// checkFilesystem mounts, which replays the journal, compares the files whose fsync had returned,
// and checks.
func (g *guest) checkFilesystem(volume, fs string, want *facts.Expected) (files int, err error) {
	dir, err := g.mount(volume)
	if err != nil {
		return 0, err
	}
	for id, f := range want.Files {
		if id.Volume != volume {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			return files, fmt.Errorf("volume %s: %w, and its fsync had returned", volume, err)
		}
		if !bytes.Equal(b, f.Content()) {
			return files, fmt.Errorf("volume %s: file %s has another content than when its fsync returned", volume, f.Name)
		}
		files++
	}
	if _, err := command("umount", dir); err != nil {
		return files, err
	}
	_, err = command(append(fsck(fs), g.devices[volume])...)
	return files, err
}

func (g *guest) mount(volume string) (string, error) {
	dir := "/run/upper-" + volume
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	_, err := command("mount", "-o", "discard", g.devices[volume], dir)
	return dir, err
}

// end takes all down in order, and checks the filesystem under the store too.
func (g *guest) end() error {
	for name := range g.devices {
		if _, err := g.do("detach", name); err != nil {
			return err
		}
	}
	if _, err := g.do("stop"); err != nil {
		return err
	}
	if _, err := command("umount", lowerDir); err != nil {
		return err
	}
	_, err := command(append(fsck(g.lower), disk)...)
	return err
}
