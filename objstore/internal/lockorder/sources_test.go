package lockorder

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// engine is the directory of package objstore.
const engine = "../.."

// listed returns the locks of the list in the package comment, those of memory alone in the second
// part; the value is whether there is a star.
func listed(t *testing.T) (ranked []string, all map[string]bool) {
	t.Helper()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^//\t(\S+\.\w+)( \*)?  +\S`)
	all = map[string]bool{}
	memory := false
	for l := range strings.Lines(string(doc)) {
		memory = memory || strings.Contains(l, "under which no other lock is taken")
		m := line.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		if _, twice := all[m[1]]; twice {
			t.Errorf("%s is listed twice", m[1])
		}
		all[m[1]] = m[2] != ""
		if !memory {
			ranked = append(ranked, m[1])
		}
	}
	return ranked, all
}

// found is a lock in the sources.
type found struct {
	name string // as in the list
	star bool   // it is a Mutex
	line string // the type of its line in the list
	at   string
}

// search returns the locks that the sources of the engine declare, and the plain mutexes. It calls
// each for every function.
func search(t *testing.T, each func(f *ast.FuncDecl, at token.Position)) (locks []found, plain []string) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(engine, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "lockorder" {
			return orSkip(err)
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		pkg := file.Name.Name + "."
		if pkg == "objstore." {
			pkg = ""
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.FuncDecl); ok {
				each(f, set.Position(f.Pos()))
			}
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range s.Fields.List {
				kind, line := lockType(f.Type)
				for _, name := range f.Names {
					l := found{pkg + spec.Name.Name + "." + name.Name, kind == "lockorder.Mutex", line, set.Position(f.Pos()).String()}
					switch kind {
					case "lockorder.Mutex", "lockorder.IOMutex":
						locks = append(locks, l)
					case "sync.Mutex", "sync.RWMutex":
						plain = append(plain, l.at)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return locks, plain
}

// orSkip returns err, or else has a directory skipped.
func orSkip(err error) error {
	if err != nil {
		return err
	}
	return filepath.SkipDir
}

// lockType returns the type of a field as package.Name, and the parameter of a lock.
func lockType(e ast.Expr) (kind, line string) {
	if i, ok := e.(*ast.IndexExpr); ok {
		if s, ok := i.Index.(*ast.SelectorExpr); ok {
			line = s.Sel.Name
		}
		e = i.X
	}
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name, line
		}
	}
	return "", line
}

// The list has every lock of the engine and no other, with a star where it is a Mutex; the names and
// the order of the ranks are those of the list. Only packages that call nobody while they hold a
// lock have plain mutexes. A method whose name says that a lock has to be held says which.
func TestListIsComplete(t *testing.T) {
	ranked, all := listed(t)
	locks, plain := search(t, func(f *ast.FuncDecl, at token.Position) {
		if strings.HasSuffix(f.Name.Name, "Locked") && !strings.Contains(f.Doc.Text(), "REQUIRES: ") {
			t.Errorf("%s: %s does not say which lock has to be held (REQUIRES: …)", at, f.Name.Name)
		}
	})
	if len(locks) < 30 {
		t.Fatalf("only %d locks were found in the sources", len(locks))
	}
	declared := map[string]bool{}
	lines := map[string]string{} // by lock
	for _, l := range locks {
		declared[l.name], lines[l.name] = true, l.line
		switch star, is := all[l.name]; {
		case !is:
			t.Errorf("%s: %s is not listed", l.at, l.name)
		case star != l.star:
			t.Errorf("%s: %s is a Mutex: %v; has a star in the list: %v", l.at, l.name, l.star, star)
		case (l.line == "Memory") == slices.Contains(ranked, l.name):
			t.Errorf("%s: %s is of line %s, and stands in the other part of the list", l.at, l.name, l.line)
		}
	}
	for name := range all {
		if !declared[name] {
			t.Errorf("%s is listed, and no source declares it", name)
		}
	}
	ranks := map[string]int{}
	for _, l := range []Lock{
		Collecting{},
		Checking{},
		Accounting{},
		Settling{},
		PartialWrite{},
		RefsLog{},
		Ballast{},
		Superblock{},
		Freeze{},
		Commit{},
		JournalWindow{},
		Catalog{},
		View{},
		Volume{},
		FreeSpace{},
		SegmentRecord{},
		JournalHeader{},
		IndexPut{},
		Maintenance{},
		History{},
		SegmentState{},
	} {
		rank, name := l.line()
		ranks[name] = rank
		if is := reflect.TypeOf(l).Name(); lines[name] != is {
			t.Errorf("%s says that it is %s, which is of line %q in the sources", is, name, lines[name])
		}
	}
	for i, name := range ranked {
		if rank, is := ranks[name]; !is || i > 0 && rank <= ranks[ranked[i-1]] {
			t.Errorf("%s is number %d of the list, and has rank %d, which is not above that of the lock before", name, i+1, rank)
		}
	}
	for _, at := range plain {
		rel, err := filepath.Rel(engine, at)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains([]string{"index", "vfs", "busfault", "failpoint", "lincheck"}, strings.Split(rel, "/")[0]) {
			t.Errorf("%s: a plain mutex, which the order does not know", at)
		}
	}
}
