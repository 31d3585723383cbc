package command

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"varve/cmd/varve/internal/protocol"
)

// varve runs a command line in this process.
func varve(t *testing.T, store string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), append([]string{"--store", store}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// hostileNames are refused wherever a name goes.
var hostileNames = []string{
	"", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\x00b", "a\nb", "a\rb", "a\tb", "a b", "a@", ":a", "+a", "a,b", "a%2e", "~",
	".hidden", "_x", "a*", "a?", "$(id)", "`id`", "a;b", "a|b", "a\x1b[31m", "a\x7f", "\xff\xfe", "a\u202eb", "a\u200bb",
	"\u0430dmin", "ａ", "é", "e\u0301", "①", "名", "a\u2044b", "a\u2215b", "\ufeffa", strings.Repeat("x", protocol.MaxName+1), strings.Repeat("x", 1<<20),
}

func checkHostile(t *testing.T, code int, stdout, stderr string, args []string) {
	t.Helper()
	line := strings.Join(args, " ")
	if code == exitOK || stdout != "" {
		t.Errorf("varve %.200q: exit status %d, says %q", line, code, stdout)
	}
	if !strings.HasPrefix(stderr, "varve: ") || strings.Contains(stderr, "goroutine") || !utf8.ValidString(stderr) {
		t.Errorf("varve %.200q: %.300q is no error for a user", line, stderr)
	}
	if i := strings.IndexFunc(stderr, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("varve %.200q: the error has %q in it", line, stderr[i:])
	}
	if len(stderr) > 2*longestError {
		t.Errorf("varve %.200q: an error of %d bytes", line, len(stderr))
	}
}

func TestHostileNames(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	if code, _, errs := varve(t, store, "init"); code != exitOK {
		t.Fatal(errs)
	}
	if code, _, errs := varve(t, store, "volume", "create", "data", "--size", "1M"); code != exitOK {
		t.Fatal(errs)
	}
	for _, name := range hostileNames {
		for _, args := range [][]string{
			{"volume", "create", "--size", "1M", "--", name},
			{"volume", "show", "--", name},
			{"volume", "delete", "--", name},
			{"snapshot", "create", "--", "data@" + name},
			{"snapshot", "create", "--", name + "@s"},
			{"snapshot", "delete", "--", "data@" + name},
			{"attach", "--", name},
		} {
			code, out, errs := varve(t, store, args...)
			checkHostile(t, code, out, errs, args)
		}
	}
	// A name that looks like an option is one, unless it comes after --; and then it is still
	// refused.
	for _, args := range [][]string{{"volume", "create", "-rf", "--size", "1M"}, {"volume", "create", "--size", "1M", "--", "-rf"}} {
		code, out, errs := varve(t, store, args...)
		checkHostile(t, code, out, errs, args)
	}
	if code, out, _ := varve(t, store, "volume", "list", "--json"); code != exitOK || strings.Count(out, `"name"`) != 1 {
		t.Errorf("after nothing but refusals: %d, %s", code, out)
	}
}

func TestHostileSizes(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	if code, _, errs := varve(t, store, "init"); code != exitOK {
		t.Fatal(errs)
	}
	for size, words := range map[string]string{
		"0": "size 0", "1": "the next multiple is 512", "511": "the next multiple is 512", "513": "the next multiple is 1024", "-1": "not a size", "-0": "not a size",
		"+1G": "not a size", "": "not a size", " ": "not a size", "1G\n": "not a size", "1\x00G": "not a size", "0x200": "not a size", "1e9": "not a size", "NaN": "not a size",
		"0.1": "size 0", "١G": "not a size", "1Ｇ": "not a size",
		"70368744178176.5": "more than", "64.1T": "more than", "65T": "more than", "70368744178177": "more than", "70368744178688": "more than",
		"9223372036854775807": "too large", "9223372036854775808": "too large", "18446744073709551616": "too large", "8192P": "too large",
		strings.Repeat("9", 400): "too large", strings.Repeat("9", 100000): "too large",
	} {
		args := []string{"volume", "create", "v", "--size=" + size}
		code, out, errs := varve(t, store, args...)
		checkHostile(t, code, out, errs, args)
		if !strings.Contains(errs, words) {
			t.Errorf("size %.50q: %.300q does not say %q", size, errs, words)
		}
	}
	for _, args := range [][]string{
		{"volume", "create", "v", "--size", "1M", "--block-size", "0"},
		{"volume", "create", "v", "--size", "1M", "--block-size", "8192"},
		{"volume", "create", "v", "--size", "1M", "--block-size", "9223372036854775807"},
		{"init", "--store", filepath.Join(store, "x"), "--chunk-size", "0"},
		{"init", "--store", filepath.Join(store, "x"), "--chunk-size", "128K"},
		{"serve", "--journal-records", "-1"},
		{"serve", "--journal-records", "99999999999999999999"},
		{"serve", "--tail-soft", "-1"},
		{"serve", "--settle-delay", "1"},
		{"serve", "--leaf-cache", "1e9"},
	} {
		code, out, errs := varve(t, store, args...)
		checkHostile(t, code, out, errs, args)
	}
	// The largest there is.
	if code, _, errs := varve(t, store, "volume", "create", "v", "--size", "64T", "--block-size", "4096"); code != exitOK {
		t.Error(errs)
	}
}

// Paths that are none. (serve is not tried: it would make this process a daemon.)
func TestHostilePaths(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"", "a\x00b", strings.Repeat("x", 300), strings.Repeat("x/", 3000), dir + "/no\nwhere", dir + "/\x1b[31m", "/dev/null", "/proc/self/mem"} {
		for _, args := range [][]string{{"stat"}, {"volume", "list"}, {"mount", "--", dir}} {
			code, out, errs := varve(t, path, args...)
			checkHostile(t, code, out, errs, args)
		}
		args := []string{"mount", "--", path}
		code, out, errs := varve(t, dir, args...)
		checkHostile(t, code, out, errs, args)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range hostileNames {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := printable(s)
		if !utf8.ValidString(p) || strings.IndexFunc(p, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) >= 0 {
			t.Errorf("%q is printed as %q", s, p)
		}
	})
}
