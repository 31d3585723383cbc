package fstype

import (
	"os"
	"testing"
)

func TestInMemory(t *testing.T) {
	for dir, want := range map[string]bool{"/dev/shm": true, "/proc/self": false} {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := InMemory(int(f.Fd())); got != want {
			t.Errorf("%s is in memory: %v, want %v", dir, got, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if InMemory(-1) {
		t.Error("what is not open counts as in memory")
	}
}
