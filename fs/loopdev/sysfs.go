package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attached reports whether loopN has a backing file: only then does its directory "loop" exist.
func attached(name string) bool {
	return unix.Access(filepath.Join(sysBlock, name, "loop", "backing_file"), unix.F_OK) == nil
}

// inspect reads the description of loopN from sysfs.
func inspect(name string) (Device, error) {
	file, err := attribute(name, "loop/backing_file")
	if err != nil {
		return Device{}, err
	}
	d := Device{Path: "/dev/" + name}
	d.File, d.Deleted = strings.CutSuffix(file, " (deleted)")
	direct, err := number(name, "loop/dio")
	if err != nil {
		return Device{}, err
	}
	readOnly, err := number(name, "ro")
	if err != nil {
		return Device{}, err
	}
	block, err := number(name, "queue/logical_block_size")
	if err != nil {
		return Device{}, err
	}
	sectors, err := number(name, "size") // always in units of 512 bytes
	if err != nil {
		return Device{}, err
	}
	d.DirectIO, d.ReadOnly, d.BlockSize, d.Size = direct == 1, readOnly == 1, int(block), sectors*512
	return d, nil
}

func attribute(name, key string) (string, error) {
	text, err := os.ReadFile(filepath.Join(sysBlock, name, key))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV):
		return "", fmt.Errorf("%s: %w", name, ErrNotAttached)
	case err != nil:
		return "", fmt.Errorf("inspect loop device: %w", err)
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

func number(name, key string) (int64, error) {
	text, err := attribute(name, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("inspect %s: %s: %w", name, key, err)
	}
	return n, nil
}
