package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// kernelBuild is a run that builds a kernel on ext4 on each of some contenders, and compares all
// files of the tree with those of the contender before.
type kernelBuild struct {
	tools
	dir    string // on a tmpfs
	source string // tar file of a kernel's source
	tree   string // directory in the tar file
	log    string // of what is run
	rounds int
	size   int64 // of the devices in bytes

	first *manifest // of the first build: what all others have to equal
}

// kernelBuildContenders are those on which a kernel is built.
var kernelBuildContenders = []string{"varve volume", "loop"}

// buildResults is what a run leaves in its file.
type buildResults struct {
	Tree        string   `json:"tree"`
	Kernel      string   `json:"kernel"` // that it ran in
	Commit      string   `json:"commit,omitempty"`
	ClockOffset int64    `json:"clock_offset_ns"` // see clockOffset
	Files       int      `json:"files"`           // of the tree, after the build
	Bytes       int64    `json:"bytes"`           // in them
	Digest      string   `json:"digest"`          // of all of them
	Vmlinux     string   `json:"vmlinux"`         // SHA-256 of the kernel that was built
	Phases      []string `json:"phases"`          // in their order
	Builds      []build  `json:"builds"`
}

// build is one build on one contender.
type build struct {
	Contender string            `json:"contender"`
	Round     int               `json:"round"`
	Windows   map[string]window `json:"windows"` // by phase
}

// runKernelBuild is the command kernel-build.
func runKernelBuild(ctx context.Context, args []string) error {
	var k kernelBuild
	flags := flag.NewFlagSet("kernel-build", flag.ExitOnError)
	flags.StringVar(&k.dir, "dir", "/tmp/build", "directory on a tmpfs that everything lies on")
	flags.StringVar(&k.varve, "varve", "", "the varve program")
	flags.StringVar(&k.source, "source", "", "tar file of a kernel's source")
	flags.StringVar(&k.tree, "tree", "", "directory in the tar file")
	flags.IntVar(&k.rounds, "rounds", 2, "builds on each contender")
	flags.Int64Var(&k.size, "size", 3<<30, "size of the devices in bytes")
	flags.StringVar(&k.log, "log", "kernel-build.log", "file for what the build prints")
	out := flags.String("out", "kernel-build.json", "file to write, on the host's file system")
	if err := flags.Parse(args); err != nil {
		return err
	}
	res := buildResults{Tree: k.tree, Phases: buildPhases, Commit: os.Getenv("VARVE_BENCH_COMMIT")}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		res.Kernel = strings.TrimSpace(string(b))
	}
	var err error
	if res.ClockOffset, err = clockOffset(filepath.Dir(*out)); err != nil {
		return fmt.Errorf("compare the clocks: %w", err)
	}
	for round := range k.rounds {
		names := slices.Clone(kernelBuildContenders)
		if round%2 == 1 { // by turns, so that neither always follows the other
			slices.Reverse(names)
		}
		for _, name := range names {
			b, err := k.on(ctx, name)
			if err != nil {
				return fmt.Errorf("build on %s: %w", name, err)
			}
			b.Round = round
			res.Builds = append(res.Builds, b)
			res.Files, res.Bytes, res.Digest, res.Vmlinux = len(k.first.files), k.first.bytes, k.first.digest(), k.first.sum("vmlinux")
			if err := res.save(*out); err != nil { // so that an interrupted run leaves what it has measured
				return err
			}
		}
	}
	return nil
}

// on builds on a new device of the contender, and returns how long it took.
func (k *kernelBuild) on(ctx context.Context, name string) (b build, err error) {
	i := slices.IndexFunc(allContenders(k.tools), func(c contender) bool { return c.name == name })
	if i < 0 {
		return b, errors.New("no such contender")
	}
	e := &env{tools: k.tools, dir: filepath.Join(k.dir, "device"), size: k.size}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, e.end(context.WithoutCancel(ctx))) }()
	dev, err := allContenders(k.tools)[i].start(ctx, e)
	if err != nil {
		return b, err
	}
	// What ext4 would put off until it is mounted would run beside the build.
	if err := quietly(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", dev.path); err != nil {
		return b, err
	}
	b = build{Contender: name, Windows: map[string]window{}}
	for _, phase := range buildPhases {
		from := time.Now()
		if err := k.phase(ctx, phase, dev); err != nil {
			return b, errors.Join(fmt.Errorf("%s: %w", phase, err), k.unmount(context.WithoutCancel(ctx)))
		}
		b.Windows[phase] = since(from)
		fmt.Fprintf(os.Stderr, "bench: %-13s %-10s %7.1f s\n", name, phase, time.Since(from).Seconds())
	}
	return b, nil
}

// The phases of a build.
const (
	phaseUnpack    = "unpack"
	phaseConfigure = "configure"
	phaseBuild     = "build"
	phaseUnmount   = "unmount"
	phaseSettle    = "settle"
	phaseRead      = "read back"
)

var buildPhases = []string{phaseUnpack, phaseConfigure, phaseBuild, phaseUnmount, phaseSettle, phaseRead}

// phase takes one step of a build.
func (k *kernelBuild) phase(ctx context.Context, phase string, dev device) error {
	switch phase {
	case phaseUnpack:
		if err := k.mount(ctx, dev); err != nil {
			return err
		}
		return k.run(ctx, "tar", "-x", "-f", k.source, "-C", k.mountpoint())
	case phaseConfigure:
		return k.run(ctx, "make", "-C", k.top(), "tinyconfig")
	case phaseBuild:
		return k.run(ctx, "make", "-C", k.top(), "vmlinux")
	case phaseUnmount:
		return k.unmount(ctx)
	case phaseSettle:
		if dev.settle == nil {
			return nil
		}
		return dev.settle(ctx)
	}
	return k.readBack(ctx, dev)
}

// mountpoint is the same for every contender: some of the files that a build makes have paths in
// them.
func (k *kernelBuild) mountpoint() string { return filepath.Join(k.dir, "mnt") }

func (k *kernelBuild) top() string { return filepath.Join(k.mountpoint(), k.tree) }

func (k *kernelBuild) mount(ctx context.Context, dev device) error {
	if err := os.MkdirAll(k.mountpoint(), 0o755); err != nil {
		return err
	}
	return quietly(ctx, "mount", "-t", "ext4", dev.path, k.mountpoint())
}

// unmount writes everything back. Nothing mounted is no error.
func (k *kernelBuild) unmount(ctx context.Context) error {
	if quietly(ctx, "mountpoint", "-q", k.mountpoint()) != nil {
		return nil
	}
	return k.run(ctx, "umount", k.mountpoint())
}

// readBack checks the file system, and reads every file from the device: the page cache went with
// the mount.
func (k *kernelBuild) readBack(ctx context.Context, dev device) error {
	if err := k.run(ctx, "e2fsck", "-f", "-n", dev.path); err != nil {
		return err
	}
	if err := k.mount(ctx, dev); err != nil {
		return err
	}
	m, err := readManifest(ctx, k.top())
	if err == nil {
		if k.first == nil {
			k.first = m
		}
		err = m.equal(k.first)
	}
	return errors.Join(err, k.unmount(ctx))
}

// buildLimit is for one program of a build.
const buildLimit = 2 * time.Hour

// run runs a program with nothing in its environment that would show in what is built.
func (k *kernelBuild) run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	log, err := os.Create(k.log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/", "LC_ALL=C", "TZ=UTC", "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026",
		"KBUILD_BUILD_USER=varve", "KBUILD_BUILD_HOST=varve", "KBUILD_BUILD_VERSION=1",
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(k.log)
		return fmt.Errorf("run %s %s: %w; the end of %s:\n%s", name, strings.Join(args, " "), err, k.log, text[max(0, len(text)-2000):])
	}
	return nil
}

func (r *buildResults) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
