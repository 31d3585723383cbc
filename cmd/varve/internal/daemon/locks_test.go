package daemon

import (
	"go/ast"
	"go/parser"
	"go/token"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The list in locks.go has every lock that the sources outside the store declare, and no other.
func TestLocksAreListed(t *testing.T) {
	listed := map[string]bool{} // by name: whether it has a star
	doc, err := os.ReadFile("locks.go")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^//\t(\w+\.\w+(?:\.\w+)?)( \*)?  +\S`)
	for _, m := range line.FindAllStringSubmatch(string(doc), -1) {
		if _, twice := listed[m[1]]; twice {
			t.Errorf("%s is listed twice", m[1])
		}
		listed[m[1]] = m[2] != ""
	}
	declared := map[string]string{} // by name: where
	root := filepath.Join("..", "..", "..", "..")
	for _, dir := range []string{"cmd", "blockdev", "fs", "uring"} {
		for name, at := range declaredLocks(t, filepath.Join(root, dir)) {
			declared[name] = at
		}
	}
	if len(declared) < 20 {
		t.Fatalf("only %d locks were found in the sources", len(declared))
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if _, is := listed[name]; !is {
			t.Errorf("%s: %s is not in the list of locks.go", declared[name], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if declared[name] == "" {
			t.Errorf("%s is in the list of locks.go, and no source declares it", name)
		}
	}
}

// declaredLocks returns the mutexes that the sources below a directory declare, in types or as
// package variables, and where.
func declaredLocks(t *testing.T, dir string) map[string]string {
	t.Helper()
	locks := map[string]string{}
	set := token.NewFileSet()
	err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"testdata", "queuetest", "targettest", "nbdtest"}, d.Name()) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					fieldLocks(set, locks, file.Name.Name+"."+s.Name.Name, s.Type)
				case *ast.ValueSpec:
					for _, n := range s.Names {
						fieldLocks(set, locks, file.Name.Name+"."+n.Name, s.Type)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return locks
}

// fieldLocks adds the mutexes of a type to locks: the type itself, or the fields of a struct.
func fieldLocks(set *token.FileSet, locks map[string]string, name string, e ast.Expr) {
	if isMutex(e) {
		locks[name] = set.Position(e.Pos()).String()
	}
	s, ok := e.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		if !isMutex(f.Type) {
			fieldLocks(set, locks, name, f.Type)
			continue
		}
		at := set.Position(f.Pos()).String()
		if len(f.Names) == 0 {
			locks[name] = at
		}
		for _, n := range f.Names {
			locks[name+"."+n.Name] = at
		}
	}
}

func isMutex(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "sync" && (s.Sel.Name == "Mutex" || s.Sel.Name == "RWMutex")
}
