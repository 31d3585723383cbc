// Package golden holds the encodings of the disk formats against the bytes in testdata/golden, for tests. The formats
// are what the stores of users consist of, and must not change by accident. To change one on purpose, raise its
// version, and run its package's tests with VARVE_GOLDEN=update.
package golden

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

// Check fails the test unless b is what testdata/golden/NAME.hex of the package under test holds.
func Check(t *testing.T, name string, b []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name+".hex")
	got := hex.Dump(b)
	if os.Getenv("VARVE_GOLDEN") == "update" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the encoding of %s has changed:\n%s\nwant\n%s", name, got, want)
	}
}
