package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// record stands for a server: it notes how it was called, and prints what varve attach would.
const record = `#!/bin/sh
echo "$(basename "$0")${VARVE_STORE:+ in $VARVE_STORE}: $*" >>"$CALLS"
case $1 in
init) mkdir "$VARVE_STORE" ;;
attach) echo /dev/ublkb0 ;;
list) echo "dev id 0: nr_hw_queues 3 queue_depth 128 block size 512 dev_capacity 20" ;;
esac
`

// wrapper runs miniublk with servers that only note how they are called.
type wrapper struct {
	t     *testing.T
	dir   string
	image string // a file for -f
}

func newWrapper(t *testing.T) *wrapper {
	t.Helper()
	w := &wrapper{t: t, dir: t.TempDir()}
	w.image = filepath.Join(w.dir, "img")
	for name, content := range map[string]string{"varve": record, "kublk": record, "img": "0123456789"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// run returns the calls that one command line led to, a line each.
func (w *wrapper) run(server string, args ...string) (string, error) {
	w.t.Helper()
	calls := filepath.Join(w.dir, "calls")
	if err := os.WriteFile(calls, nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("./miniublk", args...)
	cmd.Env = append(os.Environ(), "CALLS="+calls, "VARVE_UBLK_SERVER="+server, "VARVE_STORE=", "VARVE_UBLK_LINKS="+w.dir,
		"VARVE_BIN="+filepath.Join(w.dir, "varve"), "VARVE_KUBLK="+filepath.Join(w.dir, "kublk"))
	out, err := cmd.CombinedOutput()
	b, rerr := os.ReadFile(calls)
	if rerr != nil {
		w.t.Fatal(rerr)
	}
	if err != nil {
		w.t.Logf("%s", out)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), w.dir, "DIR"), err
}

// Each command line that blktests uses becomes the right one of each server.
func TestCommandLines(t *testing.T) {
	w := newWrapper(t)
	for _, c := range []struct{ server, args, want string }{
		{"varve", "add -t null -n 0", "varve: ublk add --background -t null -n 0 -r 0"},
		{"varve", "add -t null -n 0 -r", "varve: ublk add --background -t null -n 0"},
		{"varve", "add -t loop -f IMG -n 0", "varve: ublk add --background -t loop -n 0 -f DIR/img -r 0"},
		{"varve", "add -t loop -q 2 -f IMG -n 0 -r", "varve: ublk add --background -t loop -n 0 -f DIR/img -q 2"},
		{"varve", "recover -t loop -f IMG -n 0", "varve: ublk recover --background -t loop -n 0 -f DIR/img"},
		{"varve", "recover -t null -n 3", "varve: ublk recover --background -t null -n 3"},
		{"varve", "list -n 0", "varve: ublk list -n 0"},
		{"varve", "list", "varve: ublk list"},
		{"varve", "del -n 0", "varve: ublk del --force -n 0"},
		{"varve", "del -a", "varve: ublk del --force -a"},
		{"kublk", "add -t null -n 0", "kublk: add -t null -n 0"},
		{"kublk", "add -t loop -f IMG -n 0 -r", "kublk: add -t loop -n 0 -r 1 DIR/img"},
		{"kublk", "recover -t loop -f IMG -n 0", "kublk: list -n 0\nkublk: recover -t loop -n 0 -r 1 -q 3 DIR/img"},
		{"kublk", "list -n 0", "kublk: list -n 0"},
		{"kublk", "del -a", "kublk: del -a"},
		{"volume", "add -t null -n 0", "varve: ublk add --background -t null -n 0 -r 0"},
	} {
		args := strings.Fields(strings.ReplaceAll(c.args, "IMG", w.image))
		if got, err := w.run(c.server, args...); err != nil || got != c.want {
			t.Errorf("%s: %s\nbecame %q, %v\nwant   %q", c.server, c.args, got, err, c.want)
		}
	}
}

// A volume is made for a loop device, and the commands that name the device alone find its store.
func TestVolume(t *testing.T) {
	w := newWrapper(t)
	got, err := w.run("volume", "add", "-t", "loop", "-f", w.image, "-n", "0", "-r")
	want := `varve in DIR/img.store: init
varve in DIR/img.store: serve --background
varve in DIR/img.store: volume create disk --size 10
varve in DIR/img.store: attach disk`
	if err != nil || got != want {
		t.Fatalf("add: %v\n%s", err, got)
	}
	if got, err = w.run("volume", "recover", "-t", "loop", "-f", w.image, "-n", "0"); err != nil || got != "varve: --store DIR/img.store serve --background" {
		t.Errorf("recover: %q, %v", got, err)
	}
	if got, err = w.run("volume", "del", "-n", "0"); err != nil || got != "varve: ublk del --force -n 0\nvarve: --store DIR/img.store stop" {
		t.Errorf("del: %q, %v", got, err)
	}
	if got, err = w.run("volume", "recover", "-t", "null", "-n", "0"); err != nil || got != "varve: ublk recover --background -t null -n 0" {
		t.Errorf("a device after the volume: %q, %v", got, err)
	}
}

// What blktests does not say is refused, and nothing is called.
func TestRefusals(t *testing.T) {
	w := newWrapper(t)
	for _, c := range []struct{ server, args string }{
		{"varve", ""}, {"varve", "stop -n 0"}, {"kublk", "stop -n 0"}, {"varve", "add -t"}, {"rublk", "list"}, {"volume", "add -t loop -n 0"},
	} {
		if got, err := w.run(c.server, strings.Fields(c.args)...); err == nil || got != "" {
			t.Errorf("%s: %q: %v, called %q", c.server, c.args, err, got)
		}
	}
}
