//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// varve is the program under test.
var varve string

func TestMain(m *testing.M) {
	if size := os.Getenv(hogEnv); size != "" {
		fmt.Fprintln(os.Stderr, "hog:", hog(size))
		os.Exit(1)
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		fmt.Fprintln(os.Stderr, "integration: these tests run in the test kernel: use integration/run")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare returns an error where the tests would do harm or could not run: none of them is ever
// skipped.
func prepare() error {
	if os.Getenv("VARVE_VM") == "" {
		return fmt.Errorf("not in the test kernel")
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("not root")
	}
	if _, err := os.Stat("/dev/ublk-control"); err != nil {
		return fmt.Errorf("no ublk driver: %w", err)
	}
	varve = os.Getenv("VARVE_BIN")
	if varve == "" {
		varve = "../bin/varve"
	}
	abs, err := filepath.Abs(varve)
	if err != nil {
		return err
	}
	varve = abs
	if _, err := os.Stat(varve); err != nil {
		return fmt.Errorf("no program to test, run make build: %w", err)
	}
	// The test's own files are in the guest's /tmp, a tmpfs.
	return os.Unsetenv("VARVE_STORE")
}
