package devnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Block is the block device that the kernel calls name, as sysfs has it. os.ErrNotExist if it has
// none.
func Block(name string) (Node, error) {
	n := Node{Path: "/dev/" + name}
	b, err := os.ReadFile(filepath.Join("/sys/class/block", name, "dev"))
	if err != nil {
		return n, err
	}
	text := strings.TrimSpace(string(b))
	if _, err := fmt.Sscanf(text, "%d:%d", &n.Major, &n.Minor); err != nil {
		return n, fmt.Errorf("number of %s is %q: %w", name, text, err)
	}
	return n, nil
}
