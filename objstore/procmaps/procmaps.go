// Package procmaps parses the memory mappings of a process: /proc/self/maps (proc_pid_maps(5)).
package procmaps

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// Mapping is one line of it.
type Mapping struct {
	Start, End uintptr // addresses of the first byte and behind the last
	Perms      string  // "r-xp"
	Path       string  // of the file; "" if there is none
}

// Parse calls f for each mapping until it fails.
func Parse(r io.Reader, f func(m Mapping) error) error {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		// START-END PERMS OFFSET DEV INODE PATH
		fields := strings.Fields(sc.Text())
		if len(fields) < 5 {
			return fmt.Errorf("line of maps: %q", sc.Text())
		}
		m := Mapping{Perms: fields[1]}
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.Start, &m.End); err != nil {
			return fmt.Errorf("line of maps: %q: %w", sc.Text(), err)
		}
		if i := strings.Index(sc.Text(), "/"); i >= 0 && len(fields) > 5 {
			m.Path = sc.Text()[i:] // with its spaces
		}
		if err := f(m); err != nil {
			return err
		}
	}
	return sc.Err()
}

// Own calls f for each mapping of this process until it fails.
func Own(f func(m Mapping) error) error {
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return Parse(file, f)
}

// Program calls f for each mapping of the file that this process runs, in order of address, until
// it fails.
func Program(f func(m Mapping) error) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	return Own(func(m Mapping) error {
		if m.Path != exe {
			return nil
		}
		return f(m)
	})
}
