//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBadNamesAndSizes: each is refused with an error that says what is wrong, and nothing is
// created.
func TestBadNamesAndSizes(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "disk", "--size", "64M")
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"name"}, []string{"volume", "create", "", "--size", "1G"}},
		{[]string{"name", "/"}, []string{"volume", "create", "../up", "--size", "1G"}},
		{[]string{"name", "@"}, []string{"volume", "create", "a@b", "--size", "1G"}},
		{[]string{"name"}, []string{"volume", "create", ".", "--size", "1G"}},
		{[]string{"name"}, []string{"volume", "create", strings.Repeat("x", 500), "--size", "1G"}},
		{[]string{"name"}, []string{"volume", "create", "new\nline", "--size", "1G"}},
		{[]string{"size"}, []string{"volume", "create", "v"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "0"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "-5G"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "10X"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "1000"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "99999999999999999999G"}},
		{[]string{"size"}, []string{"volume", "create", "v", "--size", "1024P"}},
		{[]string{"block size"}, []string{"volume", "create", "v", "--size", "1G", "--block-size", "1024"}},
		{[]string{"disk", "exists"}, []string{"volume", "create", "disk", "--size", "1G"}},
		{[]string{"nope", "not found"}, []string{"volume", "show", "nope"}},
		{[]string{"nope", "not found"}, []string{"volume", "delete", "nope"}},
		{[]string{"nope", "not found"}, []string{"attach", "nope"}},
		{[]string{"nope"}, []string{"detach", "nope"}},
		{[]string{"copy mode"}, []string{"attach", "disk", "--copy-mode", "fast"}},
		{[]string{"transport"}, []string{"attach", "disk", "--transport", "nvme"}},
		{[]string{"queues"}, []string{"attach", "disk", "--queues", "100000"}},
		{[]string{"depth"}, []string{"attach", "disk", "--depth", "-1"}},
		{[]string{"@"}, []string{"snapshot", "create", "disk"}},
		{[]string{"name"}, []string{"snapshot", "create", "disk@a/b"}},
		{[]string{"nope", "not found"}, []string{"snapshot", "create", "nope@s"}},
		{[]string{"not found"}, []string{"snapshot", "delete", "disk@none"}},
		{[]string{"/nowhere/at/all"}, []string{"mount", "/nowhere/at/all"}},
		{[]string{"unknown command"}, []string{"frobnicate"}},
		{[]string{"unknown flag"}, []string{"stat", "--frobnicate"}},
	} {
		n.refuse(ctx, c.words, c.args...)
	}
	if s := query[stat](ctx, n, "stat"); s.Volumes != 1 || s.Snapshots != 0 {
		t.Errorf("after nothing but refusals: %d volumes, %d snapshots", s.Volumes, s.Snapshots)
	}
}

// TestStoreInUse: a second daemon and a second init are refused, and the first daemon continues.
func TestStoreInUse(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.refuse(ctx, []string{n.store}, "init")
	n.refuse(ctx, []string{"in use"}, "serve")
	n.refuse(ctx, []string{"in use"}, "serve", "--background")
	n.varve(ctx, "volume", "create", "disk", "--size", "64M")
	dev := n.attach(ctx, "disk")
	n.refuse(ctx, []string{"disk", "attached"}, "attach", "disk")
	n.refuse(ctx, []string{"disk", "in use"}, "volume", "delete", "disk")
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	n.refuse(ctx, []string{dev}, "detach", "disk")
	_ = f.Close()
	n.varve(ctx, "detach", dev)
	n.varve(ctx, "volume", "delete", "disk")
}

// TestNotAStore: an absent directory, a file, an empty and a foreign directory.
func TestNotAStore(t *testing.T) {
	ctx := limit(t, time.Minute)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	foreign := filepath.Join(dir, "foreign")
	for _, err := range []error{
		os.WriteFile(file, []byte("text"), 0o600), os.Mkdir(filepath.Join(dir, "empty"), 0o700), os.Mkdir(foreign, 0o700),
		os.WriteFile(filepath.Join(foreign, "precious"), []byte("data"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"absent", "file", "empty", "foreign"} {
		path := filepath.Join(dir, name)
		for _, command := range [][]string{{"serve"}, {"stat"}, {"volume", "list"}} {
			args := append([]string{"--store", path}, command...)
			checkRefusal(t, run(ctx, varve, args...), []string{path}, args)
		}
	}
	for _, path := range []string{file, foreign} {
		args := []string{"--store", path, "init"}
		checkRefusal(t, run(ctx, varve, args...), []string{path}, args)
	}
	if b, err := os.ReadFile(filepath.Join(foreign, "precious")); err != nil || string(b) != "data" {
		t.Errorf("a foreign file was touched: %q %v", b, err)
	}
}

// TestDamagedSuperblock: the store opens with one damaged copy and is refused with two, by an error
// that names them. When they are restored, everything is there.
func TestDamagedSuperblock(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n, want := storeWithData(ctx, t, 16)
	n.sayStopped(ctx)
	path := filepath.Join(n.store, "superblock")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(file string, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flipped := append([]byte(nil), good...)
	flipped[17] ^= 0x10
	for what, b := range map[string][]byte{"empty": nil, "cut": good[:20], "flipped": flipped} {
		write(path, b)
		write(path+".copy", b)
		t.Log("both copies", what)
		n.refuse(ctx, []string{"superblock"}, "serve")
		n.refuse(ctx, []string{"superblock"}, "volume", "list")
		write(path+".copy", good)
		checkData(ctx, t, n, want)
	}
	write(path, good)
	write(path+".copy", flipped)
	checkData(ctx, t, n, want)
}

// TestDamagedFiles damages a store's files, one at a time, in a copy of the store. Afterwards the
// data is right, or the daemon refuses to serve it with an error, or reports the damage, but never
// silently serves other data. Data chunks are not damaged: they are not verified on each read, as
// docs/crash-model.md says.
func TestDamagedFiles(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	const segment = 256 << 20
	n, want := storeWithData(ctx, t, segment>>20+64) // so that one is sealed
	sealed := 0
	for _, sub := range []string{"segments", "journal", "refs"} {
		files, err := filepath.Glob(filepath.Join(n.store, sub, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files in %s (%v)", sub, err)
		}
		for _, file := range files {
			rel, err := filepath.Rel(n.store, file)
			if err != nil {
				t.Fatal(err)
			}
			ways := []string{"empty", "cut", "flip head", "flip tail"}
			if strings.HasSuffix(file, ".seg") {
				st, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if st.Size() > segment { // the footer lies behind all data
					sealed++
				} else {
					ways = ways[:3]
				}
			}
			for _, how := range ways {
				t.Run(rel+"/"+how, func(t *testing.T) { damagedFile(ctx, t, n, rel, how, want) })
			}
		}
	}
	if sealed == 0 {
		t.Error("no segment was sealed: no footer was damaged")
	}
	n.sayStopped(ctx)
	checkData(ctx, t, n, want)
}

func damagedFile(ctx context.Context, t *testing.T, n *node, rel, how, want string) {
	dir := filepath.Join(t.TempDir(), "store")
	must(ctx, t, "cp", "-a", "--sparse=always", n.store, dir)
	path := filepath.Join(dir, rel)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		t.Fatalf("%s is empty: nothing to damage", rel)
	}
	end := len(b)
	for end > 1 && b[end-1] == 0 { // what is preallocated is not the tail
		end--
	}
	switch how {
	case "cut":
		b = b[:end/2]
	case "flip tail":
		b[max(0, end-24)] ^= 4
	case "flip head":
		b[min(9, end-1)] ^= 4
	case "empty":
		b = nil
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &node{t: t, store: dir, logs: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(d.takeDown)
	d.sayStopped(ctx)
	if !d.serveOrRefuse(ctx, rel) {
		return
	}
	r := d.try(ctx, "attach", "disk", "--read-only")
	if r.code != 0 {
		checkRefusal(t, r, nil, []string{"attach disk"})
		return
	}
	dev := strings.TrimSpace(r.stdout)
	got, err := sumFile(dev)
	switch {
	case err != nil:
		t.Logf("reading gives an error: %v", err)
	case fmt.Sprintf("%x", got) == want:
		t.Log("read back whole")
	case strings.Contains(d.logTail(), filepath.Base(rel)):
		t.Log("an older content, and the log names the file")
	default:
		t.Errorf("other data is served, and nothing says so\n%s", d.logTail())
	}
}

// sayStopped runs varve set --copied-from stopped: the store is a copy of one whose daemon was
// killed, and its journal counts. What the command reports of damage is added to the daemon's log.
func (n *node) sayStopped(ctx context.Context) {
	n.t.Helper()
	r := n.try(ctx, "set", "--copied-from", "stopped")
	f, err := os.OpenFile(n.logs, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(r.stderr); err != nil {
		n.t.Fatal(err)
	}
}

// serveOrRefuse starts a daemon on a damaged store. It returns false if the daemon refused with an
// error.
func (n *node) serveOrRefuse(ctx context.Context, rel string) bool {
	n.t.Helper()
	r := n.try(ctx, "serve", "--background")
	if r.code != 0 {
		r.stderr = strings.ReplaceAll(r.stderr, n.store, "STORE") // it has the test's name, and that has the file's
		checkRefusal(n.t, r, []string{filepath.Dir(rel)}, []string{"serve with a damaged " + rel})
		return false
	}
	d := query[struct {
		Daemon struct{ PID int }
	}](ctx, n, "stat")
	n.t.Cleanup(func() {
		if r := n.try(context.Background(), "stop", "--detach"); r.code != 0 {
			n.t.Errorf("stop: %s", r.stderr)
			_ = syscall.Kill(d.Daemon.PID, syscall.SIGKILL)
		}
	})
	return true
}

// storeWithData creates a store with a settled snapshot of some MiB and an unsettled tail, and
// returns a hash of the volume's content.
func storeWithData(ctx context.Context, t *testing.T, mib int) (*node, string) {
	t.Helper()
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", fmt.Sprintf("%dM", mib+16))
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", fmt.Sprint("count=", mib), "oflag=direct", "status=none")
	n.snapshot(ctx, "disk@settled")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=4k", "count=64", "seek=1000", "oflag=direct", "conv=notrunc,fsync",
		"status=none")
	want := sum(t, dev)
	// The store as a killed daemon leaves it, with a tail in its journal. The device goes with the
	// other one.
	n.kill(ctx)
	left := filepath.Join(t.TempDir(), "store")
	must(ctx, t, "cp", "-a", "--sparse=always", n.store, left)
	n.serve(ctx)
	n.stop(ctx, "--detach")
	return &node{t: t, store: left, logs: n.logs}, want
}

// checkData serves the store and compares the volume's content.
func checkData(ctx context.Context, t *testing.T, n *node, want string) {
	t.Helper()
	n.serve(ctx)
	dev := n.attachAgain(ctx, "disk")
	if got := sum(t, dev); got != want {
		t.Error("the volume's content changed")
	}
	n.stop(ctx, "--detach")
}

// TestFullStore fills the store's file system: writes fail with ENOSPC, nothing that was written is
// lost, the daemon survives, and deleting and restarting work.
func TestFullStore(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	small := t.TempDir()
	must(ctx, t, "mount", "-t", "tmpfs", "-o", "size=768M", "tmpfs", small)
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	n := newNodeAt(ctx, t, filepath.Join(small, "store"))
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "4G")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=32", "oflag=direct", "conv=fsync", "status=none")
	first := func() string {
		return must(ctx, t, "sh", "-c", "dd if="+dev+" bs=1M count=32 iflag=direct status=none | sha256sum")
	}
	want := first()
	r := run(ctx, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "seek=32", "oflag=direct", "status=none")
	if r.code == 0 || !strings.Contains(r.stderr, "No space left") {
		t.Errorf("writing 4 GiB into 768 MiB: exit status %d, %s", r.code, r.stderr)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(small, &fs); err != nil {
		t.Fatal(err)
	}
	s := query[stat](ctx, n, "stat")
	t.Logf("full: used %d MiB, free for writes %d MiB; file system free %d MiB", s.Used>>20, s.Free>>20, fs.Bavail*uint64(fs.Bsize)>>20)
	if fs.Bavail == 0 {
		t.Error("the file system is full to the last block: there was no reserve")
	}
	if got := first(); got != want {
		t.Error("what was written before changed when the store filled")
	}
	must(ctx, t, "blkdiscard", dev) // takes no space
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	n.serve(ctx)
	n.attachAgain(ctx, "disk")
	n.varve(ctx, "detach", "disk")
	n.varve(ctx, "volume", "delete", "disk")
}

// TestNoUblk: without the driver, --transport ublk fails with an error that names it, and auto uses
// a loop device.
func TestNoUblk(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "disk", "--size", "256M")
	if err := os.Rename("/dev/ublk-control", "/dev/ublk-hidden"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename("/dev/ublk-hidden", "/dev/ublk-control"); err != nil {
			t.Error(err)
		}
	})
	n.refuse(ctx, []string{"/dev/ublk-control"}, "attach", "disk", "--transport", "ublk")
	n.refuse(ctx, []string{"/dev/ublk-control"}, "features")
	r := n.try(ctx, "attach", "disk")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "/dev/loop") || !strings.Contains(r.stderr, "loop") {
		t.Errorf("attach without ublk: status %d, %q, and says %q", r.code, r.stdout, r.stderr)
	}
	n.varve(ctx, "detach", "disk")
}

// TestNotRoot: an ordinary user gets errors that name what the store or the device needs.
func TestNotRoot(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "disk", "--size", "64M")
	asNobody := func(args ...string) result {
		// A copy, for the checkout may be where nobody may go.
		copied := filepath.Join("/run", "varve-as-nobody")
		must(ctx, t, "install", "-m", "755", varve, copied)
		var out, errs strings.Builder
		cmd := exec.CommandContext(ctx, copied, args...)
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &out, &errs
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		_ = cmd.Run()
		return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	}
	for _, args := range [][]string{{"stat"}, {"attach", "disk"}, {"serve"}, {"volume", "list"}} {
		all := append([]string{"--store", n.store}, args...)
		checkRefusal(t, asNobody(all...), []string{"permission"}, all)
	}
	// A store of its own it may have; a device it may not.
	own := filepath.Join("/tmp", "nobody")
	must(ctx, t, "install", "-d", "-o", "65534", "-g", "65534", own)
	t.Cleanup(func() { _ = os.RemoveAll(own) })
	store := filepath.Join(own, "store")
	for _, args := range [][]string{{"init"}, {"volume", "create", "disk", "--size", "64M"}, {"serve", "--background"}} {
		if r := asNobody(append([]string{"--store", store}, args...)...); r.code != 0 {
			t.Fatalf("varve %s as nobody: %s", strings.Join(args, " "), r.stderr)
		}
	}
	args := []string{"--store", store, "attach", "disk"}
	checkRefusal(t, asNobody(args...), []string{"permission"}, args)
	if r := asNobody("--store", store, "stop"); r.code != 0 {
		t.Errorf("varve stop as nobody: %s", r.stderr)
	}
}

// TestHostileArguments runs the program with arguments like those that package command's
// TestHostileNames uses in-process.
func TestHostileArguments(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dir := filepath.Join(t.TempDir(), "new\nline \x1b[31m")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"volume", "create", "a\nb", "--size", "1M"},
		{"volume", "create", "\xff", "--size", "1M"},
		{"volume", "create", "--size", "1M", "--", "-rf"},
		{"volume", "create", "v", "--size", "70368744178688"},
		{"volume", "create", "v", "--size", "9223372036854775808"},
		{"mount", strings.Repeat("x", 5000)},
		{"mount", n.store + "/../store"},
		{"mount", filepath.Join(dir, "nothing\x07")},
		{"umount", dir},
		{"detach", dir},
		{"detach", "/dev/null"},
		{"detach", "/dev/ublkb99"},
		{"detach", ""},
		{"detach", strings.Repeat("x", 5000)},
	} {
		r := n.try(ctx, args...)
		checkRefusal(t, r, nil, args)
		if strings.ContainsAny(r.stderr, "\x1b\x07") {
			t.Errorf("varve %q: the error has control characters: %q", args, r.stderr)
		}
	}
	// A directory may have such a name.
	n.varve(ctx, "volume", "create", "disk", "--size", "1M")
	n.varve(ctx, "mount", dir)
	if _, err := os.Stat(filepath.Join(dir, "volumes/disk/live")); err != nil {
		t.Error(err)
	}
	n.kill(ctx)
	n.serve(ctx) // and the next daemon finds it in its list
	if _, err := os.Stat(filepath.Join(dir, "volumes/disk/live")); err != nil {
		t.Errorf("after a kill: %v", err)
	}
	n.varve(ctx, "umount", dir)
}
