package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// smaller is how many times smaller than the others the devices of the smallContenders are: there
// are many of them on the tmpfs.
const smaller = 4

// smallContenders take part in the comparisons beside the main one.
func smallContenders() []contender {
	cs := []contender{
		{name: "copy zero", note: "varve loop, copy mode zero", parts: []string{partCopy, partLoop, partTargets}, start: startVarveLoop("zero")},
		{name: "copy user", note: "varve loop, copy mode user", parts: []string{partCopy, partLoop}, start: startVarveLoop("user")},
		{name: "copy plain", note: "varve loop, copy mode plain", parts: []string{partCopy, partLoop}, start: startVarveLoop("plain")},
		{name: "null zero", note: "varve null, copy mode zero", parts: []string{partNull}, start: startVarveNull("zero")},
		{name: "null plain", note: "varve null, copy mode plain", parts: []string{partNull}, start: startVarveNull("plain")},
		{name: "stripe", note: "varve stripe of two files", parts: []string{partTargets}, start: startLegs("stripe")},
		{name: "mirror", note: "varve mirror of two files", parts: []string{partTargets}, start: startLegs("mirror")},
		{name: "qcow2", note: "varve over a qcow2 image", parts: []string{partTargets}, start: startQcow2},
		{name: "qemu-nbd", note: "qemu-nbd over a qcow2 image, direct I/O, and the kernel's nbd", parts: []string{partTargets}, start: startQemuNBD},
	}
	for i, c := range cs {
		cs[i].start = func(ctx context.Context, e *env) (device, error) {
			e.size /= smaller
			return c.start(ctx, e)
		}
	}
	return cs
}

// legMetadata is more than what a stripe and a mirror keep at the beginning of each leg, in bytes.
const legMetadata = 2 << 20

// startLegs starts a target over two new files.
func startLegs(target string) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) {
		size := e.size + legMetadata
		if target == "stripe" {
			size = e.size/2 + legMetadata
		}
		args := []string{"--target", target, "--format"}
		for _, name := range []string{"a", "b"} {
			file, err := e.sparse(name, size)
			if err != nil {
				return device{}, err
			}
			args = append(args, "--file", file)
		}
		return serveDevice(ctx, e, args...)
	}
}

// newImage makes a qcow2 image with qemu-img's defaults.
func newImage(ctx context.Context, e *env) (string, error) {
	image := filepath.Join(e.dir, "image.qcow2")
	return image, quietly(ctx, "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(e.size))
}

func startQcow2(ctx context.Context, e *env) (device, error) {
	image, err := newImage(ctx, e)
	if err != nil {
		return device{}, err
	}
	return serveDevice(ctx, e, "--target", "qcow2", "--file", image)
}

func startQemuNBD(ctx context.Context, e *env) (device, error) {
	image, err := newImage(ctx, e)
	if err != nil {
		return device{}, err
	}
	const node = "/dev/nbd0"
	if err := quietly(ctx, "qemu-nbd", "--fork", "--connect="+node, "--format=qcow2", "--cache=none", "--discard=unmap", image); err != nil {
		return device{}, err
	}
	e.atEnd(func(ctx context.Context) error { return quietly(ctx, "qemu-nbd", "--disconnect", node) })
	return device{path: node}, nil
}
