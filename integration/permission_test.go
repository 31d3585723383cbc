//go:build integration

package integration

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nobody  = 65534
	another = 65533 // a user who is neither root nor nobody
)

// runAs runs a program as another user, with no other groups or capabilities.
func runAs(ctx context.Context, uid uint32, name string, args ...string) result {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return result{"", err.Error(), -1}
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// everybodysVarve installs a copy of the program that every user may run.
func everybodysVarve(ctx context.Context, t *testing.T) string {
	t.Helper()
	copied := "/run/varve-for-everybody"
	must(ctx, t, "install", "-m", "755", varve, copied)
	return copied
}

// openUp lets every user reach path.
func openUp(t *testing.T, path string) {
	t.Helper()
	for dir := path; dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		} else if st.Mode()&0o005 != 0o005 {
			if err := os.Chmod(dir, st.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSocketPermission: other users cannot reach the socket, and if its mode is loosened, the
// daemon refuses them. Root may use every user's daemon.
func TestSocketPermission(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "disk", "--size", "64M")
	n.snapshot(ctx, "disk@s")
	program := everybodysVarve(ctx, t)
	// No file of the store is accessible to others, whatever the modes of the directories above it.
	openUp(t, filepath.Dir(n.store))
	err := filepath.WalkDir(n.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && (d.IsDir() || path == filepath.Join(n.store, "varve.sock")) {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	commands := [][]string{{"stat"}, {"volume", "list"}, {"volume", "create", "evil", "--size", "1M"}, {"attach", "disk"}, {"stop"}}
	try := func(store string, uid uint32, words ...string) {
		t.Helper()
		for _, args := range commands {
			all := append([]string{"--store", store}, args...)
			checkRefusal(t, runAs(ctx, uid, program, all...), words, all)
		}
	}
	try(n.store, nobody, "permission")
	openUp(t, n.store)
	try(n.store, nobody, "permission")
	if err := os.Chmod(filepath.Join(n.store, "varve.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	try(n.store, nobody, "only its own user and root")
	if s := query[stat](ctx, n, "stat"); s.Volumes != 1 || s.Snapshots != 1 {
		t.Errorf("after nothing but refusals: %d volumes, %d snapshots", s.Volumes, s.Snapshots)
	}

	// The daemon of the user nobody: only nobody and root may use it.
	own := "/tmp/of-nobody"
	must(ctx, t, "install", "-d", "-m", "755", "-o", "65534", "-g", "65534", own)
	t.Cleanup(func() { _ = os.RemoveAll(own) })
	m := &node{t: t, store: filepath.Join(own, "store")}
	for _, args := range [][]string{{"init"}, {"volume", "create", "disk", "--size", "64M"}, {"serve", "--background"}} {
		if r := runAs(ctx, nobody, program, append([]string{"--store", m.store}, args...)...); r.code != 0 {
			t.Fatalf("varve %s as nobody: %s", strings.Join(args, " "), r.stderr)
		}
	}
	openUp(t, m.store)
	if err := os.Chmod(filepath.Join(m.store, "varve.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	try(m.store, another, "only its own user and root")
	if s := query[stat](ctx, m, "stat"); s.Volumes != 1 { // as root
		t.Errorf("%d volumes", s.Volumes)
	}
	if r := runAs(ctx, nobody, program, "--store", m.store, "stop"); r.code != 0 {
		t.Errorf("varve stop as nobody: %s", r.stderr)
	}
}

// TestMountPermission: without --allow-other no other user can access a mount. With it every user
// can read the snapshots, but the live files stay accessible to their owner only.
func TestMountPermission(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "16M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=4", "oflag=direct", "status=none")
	root := n.snapshot(ctx, "disk@s")
	closed, open := n.fuse(ctx), t.TempDir()
	n.varve(ctx, "mount", "--allow-other", open)
	openUp(t, filepath.Dir(closed))
	openUp(t, filepath.Dir(open))

	as := func(name string, args ...string) result { return runAs(ctx, nobody, name, args...) }
	for _, args := range [][]string{
		{"ls", closed},
		{"stat", closed},
		{"ls", filepath.Join(closed, "volumes")},
		{"cat", filepath.Join(closed, "volumes/disk/live")},
		{"cat", filepath.Join(closed, "snapshots/disk/s/disk.img")},
		{"cat", filepath.Join(closed, "volumes/disk/info.json")},
	} {
		if r := as(args[0], args[1:]...); r.code == 0 || !strings.Contains(r.stderr, "Permission denied") {
			t.Errorf("%v as nobody: status %d, %s%s", args, r.code, r.stdout, r.stderr)
		}
	}

	img, live := filepath.Join(open, "snapshots/disk/s/disk.img"), filepath.Join(open, "volumes/disk/live")
	want, _, _ := strings.Cut(must(ctx, t, "sha256sum", dev), " ")
	for _, file := range []string{img, filepath.Join(open, "by-id", root, "disk.img")} {
		if r := as("sha256sum", file); r.code != 0 || !strings.HasPrefix(r.stdout, want) {
			t.Errorf("%s as nobody: status %d, %s%s", file, r.code, r.stdout, r.stderr)
		}
	}
	if r := as("cat", filepath.Join(open, "volumes/disk/info.json")); r.code != 0 || !strings.Contains(r.stdout, `"size"`) {
		t.Errorf("info.json as nobody: %s%s", r.stdout, r.stderr)
	}
	for _, args := range [][]string{
		{"cat", live},
		{"dd", "if=/dev/zero", "of=" + live, "count=1", "conv=notrunc"},
		{"truncate", "-s", "0", live},
		{"dd", "if=/dev/zero", "of=" + img, "count=1", "conv=notrunc"},
		{"chmod", "666", live},
		{"chown", "65534", live},
		{"touch", img},
		{"rm", "-f", img},
		{"rm", "-rf", filepath.Join(open, "volumes/disk")},
		{"mkdir", filepath.Join(open, "volumes/new")},
		{"touch", filepath.Join(open, "new")},
		{"mv", img, filepath.Join(open, "moved")},
		{"ln", img, filepath.Join(open, "link")},
	} {
		if r := as(args[0], args[1:]...); r.code == 0 {
			t.Errorf("%v as nobody: it worked: %s%s", args, r.stdout, r.stderr)
		}
	}
	if got, _, _ := strings.Cut(must(ctx, t, "sha256sum", live), " "); got != want {
		t.Error("the volume was changed")
	}
	for _, dir := range []string{closed, open} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); st.Flags&want != want {
			t.Errorf("%s is mounted with flags %#x, without one of nosuid, nodev, noexec", dir, st.Flags)
		}
		n.varve(ctx, "umount", dir)
	}
	n.varve(ctx, "detach", "disk")
}
