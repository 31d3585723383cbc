package main

import (
	"context"
	"fmt"
)

// kernelContenders are those that need no server: loop and device mapper.
func kernelContenders() []contender {
	return []contender{
		{name: "loop", note: "kernel loop device, buffered", start: startLoop(false)},
		{name: "loop dio", note: "kernel loop device, direct I/O", start: startLoop(true)},
		{name: "dm-thin", note: "thin volume, 64 KiB blocks, on loop", start: startThin},
		{name: "dm-vdo", note: "deduplicating volume, no compression, on loop", start: startVDO},
	}
}

const sectorSize = 512

func startLoop(direct bool) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) {
		path, err := loopOver(ctx, e, "disk", e.size, direct)
		return device{path: path}, err
	}
}

// loopOver puts a loop device over a new sparse file.
func loopOver(ctx context.Context, e *env, name string, size int64, direct bool) (string, error) {
	file, err := e.sparse(name, size)
	if err != nil {
		return "", err
	}
	args := []string{"--find", "--show", file}
	if direct {
		args = append([]string{"--direct-io=on"}, args...)
	}
	path, err := command(ctx, "losetup", args...)
	if err != nil {
		return "", err
	}
	e.atEnd(func(ctx context.Context) error { return quietly(ctx, "losetup", "--detach", path) })
	return path, nil
}

// mapper makes a device-mapper device and returns its path.
func mapper(ctx context.Context, e *env, name, table string) (string, error) {
	if err := quietly(ctx, "dmsetup", "create", name, "--table", table); err != nil {
		return "", err
	}
	e.atEnd(func(ctx context.Context) error { return quietly(ctx, "dmsetup", "remove", "--retry", name) })
	return "/dev/mapper/" + name, nil
}

func startThin(ctx context.Context, e *env) (device, error) {
	// Room for the volume, its metadata and a low-water mark that is not reached.
	dataSize := e.size + e.size/4
	data, err := loopOver(ctx, e, "data", dataSize, false)
	if err != nil {
		return device{}, err
	}
	meta, err := loopOver(ctx, e, "meta", 64<<20, false)
	if err != nil {
		return device{}, err
	}
	// Zeroing of new blocks stays on, as it is by default.
	pool, err := mapper(ctx, e, "bench-pool", fmt.Sprintf("0 %d thin-pool %s %s 128 0", dataSize/sectorSize, meta, data))
	if err != nil {
		return device{}, err
	}
	if err := quietly(ctx, "dmsetup", "message", "bench-pool", "0", "create_thin 0"); err != nil {
		return device{}, err
	}
	path, err := mapper(ctx, e, "bench-thin", fmt.Sprintf("0 %d thin %s 0", e.size/sectorSize, pool))
	return device{path: path}, err
}

// vdoBacking is what the smallest dense index, its metadata and some gigabytes of data need.
const vdoBacking = 6 << 30

func startVDO(ctx context.Context, e *env) (device, error) {
	disk, err := loopOver(ctx, e, "disk", vdoBacking, false)
	if err != nil {
		return device{}, err
	}
	if err := quietly(ctx, e.vdoformat, fmt.Sprintf("--logical-size=%dM", e.size>>20), "--slab-bits=15",
		"--uds-memory-size=0.25", disk); err != nil {
		return device{}, err
	}
	// Sizes in 4 KiB blocks, the kernel's recommended values for the rest.
	path, err := mapper(ctx, e, "bench-vdo", fmt.Sprintf("0 %d vdo V4 %s %d 4096 32768 16380",
		e.size/sectorSize, disk, vdoBacking/4096))
	return device{path: path}, err
}
