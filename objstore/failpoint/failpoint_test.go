package failpoint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"varve/objstore/failpoint"
)

// Each point is in the list, has a value of its own, and is passed at exactly one place of the
// program.
func TestEachPointHasOnePlace(t *testing.T) {
	root := filepath.Join("..", "..")
	constants := map[string]string{} // name -> value
	places := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "Point" && file.Name.Name == "failpoint" && len(n.Values) == 1 {
					constants[n.Names[0].Name] = strings.Trim(n.Values[0].(*ast.BasicLit).Value, `"`)
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || len(n.Args) != 1 {
					break
				}
				pkg, ok := f.X.(*ast.Ident)
				arg, isPoint := n.Args[0].(*ast.SelectorExpr)
				if ok && isPoint && pkg.Name == "failpoint" && (f.Sel.Name == "Here" || f.Sel.Name == "Err") {
					places[arg.Sel.Name]++
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for name, value := range constants {
		if other, taken := values[value]; taken {
			t.Errorf("%s and %s are both %q", name, other, value)
		}
		values[value] = name
		if places[name] != 1 {
			t.Errorf("%s is passed at %d places, want 1", name, places[name])
		}
	}
	delete(values, string(failpoint.QuiesceFails))
	delete(values, string(failpoint.QueueFails))
	delete(values, string(failpoint.RecoverFails))
	delete(values, string(failpoint.IndexFails))
	for _, p := range failpoint.Points() {
		if values[string(p)] == "" {
			t.Errorf("%q is listed twice, or no constant", p)
		}
		delete(values, string(p))
	}
	for value, name := range values {
		t.Errorf("%s (%q) is not listed", name, value)
	}
}

// A program that is built without the tag has neither the points nor the code behind them: the
// calls are inlined, and there is nothing in them.
func TestReleaseHasNone(t *testing.T) {
	for _, c := range []struct {
		tags string
		want bool
	}{{"", false}, {"failpoint", true}} {
		bin := filepath.Join(t.TempDir(), "varve")
		build := exec.Command("go", "build", "-tags", c.tags, "-o", bin, "varve/cmd/varve")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{
			"VARVE_FAILPOINT", string(failpoint.WriteJournaled), string(failpoint.SettleRecorded), string(failpoint.UpgradeGiven),
			"objstore/failpoint.Here", "objstore/failpoint.Err", "objstore/failpoint.Limit",
		} {
			if got := strings.Contains(string(b), word); got != c.want {
				t.Errorf("tags %q: the program has %q: %v, want %v", c.tags, word, got, c.want)
			}
		}
	}
}
