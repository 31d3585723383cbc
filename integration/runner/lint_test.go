package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeGo stands for go install of the linter. It notes what it is asked for.
const fakeGo = `#!/bin/bash
echo "$*" >>"$FAKE_GO_LOG"
mkdir -p "$GOBIN"
printf '#!/bin/bash\necho "golangci-lint has version %s built with go"\n' "${2##*@v}" >"$GOBIN/golangci-lint"
chmod +x "$GOBIN/golangci-lint"
`

// In a cache that is empty, or has another version, the linter is installed; one that is there is
// used.
func TestInstallLinter(t *testing.T) {
	bin, cache, log := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(fakeGo), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("FAKE_GO_LOG", log)
	t.Setenv("VARVE_CACHE", cache)
	installed := func() int {
		t.Helper()
		linter, err := installLinter(t.Context(), &job{out: os.Stderr, log: os.Stderr})
		if want := filepath.Join(cache, "bin/golangci-lint"); err != nil || linter != want {
			t.Fatalf("the linter is %s, %v; want %s", linter, err, want)
		}
		if _, err := os.Stat(linter); err != nil {
			t.Fatal(err)
		}
		b, _ := os.ReadFile(log)
		return strings.Count(string(b), "install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@"+linterVersion+"\n")
	}
	if n := installed(); n != 1 {
		t.Errorf("in an empty cache it was installed %d times, want once", n)
	}
	if n := installed(); n != 1 {
		t.Errorf("a linter that was there was installed again, %d times", n-1)
	}
	other := "#!/bin/bash\necho golangci-lint has version 1.0.0 built with go\n"
	if err := os.WriteFile(filepath.Join(cache, "bin/golangci-lint"), []byte(other), 0o755); err != nil {
		t.Fatal(err)
	}
	if n := installed(); n != 2 {
		t.Errorf("in place of another version it was installed %d times, want once", n-1)
	}
}
