package upstream

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	factsPage  = "../../docs/containerd.md"
	containerd = "github.com/containerd/containerd/v2"
)

// fact is an entry of the page.
type fact struct {
	title         string
	read          []source
	used, noticed []string
}

// source is a declaration of containerd's and the code in it that the fact consists of.
type source struct {
	file, declaration string
	code              []string
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`\bTest[A-Z]\w*`)
)

// facts reads the page.
func facts(t *testing.T) (version string, all []fact) {
	t.Helper()
	page, err := os.ReadFile(factsPage)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "### "); ok {
			all = append(all, fact{title: title})
			continue
		}
		if v, ok := strings.CutPrefix(line, "Read in containerd "); ok {
			version, _, _ = strings.Cut(v, ". ")
		}
		kind, text, ok := strings.Cut(strings.TrimPrefix(line, "- "), ": ")
		if !strings.HasPrefix(line, "- ") || !ok || len(all) == 0 {
			continue
		}
		f := &all[len(all)-1]
		switch kind {
		case "read":
			var spans []string
			for _, span := range codeSpan.FindAllStringSubmatch(text, -1) {
				spans = append(spans, span[1])
			}
			if len(spans) < 3 {
				t.Fatalf("%s: %q is not file, declaration and code", f.title, line)
			}
			f.read = append(f.read, source{file: spans[0], declaration: spans[1], code: spans[2:]})
		case "used":
			f.used = strings.Split(text, ", ")
		case "noticed":
			f.noticed = append(testName.FindAllString(text, -1), f.noticed...)
			if len(f.noticed) == 0 && text != "every integration test" {
				t.Errorf("%s: no test notices a change", f.title)
			}
		default:
			t.Errorf("%s: what is %q?", f.title, kind)
		}
	}
	return version, all
}

// TestContainerdFacts looks every fact of the page up in the source of the containerd that is built against.
func TestContainerdFacts(t *testing.T) {
	_, all := facts(t)
	if len(all) == 0 {
		t.Fatal("the page has no facts")
	}
	dir := golist(t, "{{.Dir}}")
	for _, f := range all {
		t.Run(f.title, func(t *testing.T) {
			if len(f.read) == 0 || len(f.used) == 0 {
				t.Error("the entry does not say where the fact was read, or where it is used")
			}
			for _, s := range f.read {
				text, err := declaration(filepath.Join(dir, s.file), s.declaration)
				if err != nil {
					t.Errorf("%s: %v", s.file, err)
					continue
				}
				for _, code := range s.code {
					if !strings.Contains(text, spaced(code)) {
						t.Errorf("%s: %s has no %s: read it again, and change what uses it: %s",
							s.file, s.declaration, code, strings.Join(f.used, ", "))
					}
				}
			}
		})
	}
}

// TestDeclarationsAreFound shows that a fact that is not there would be noticed.
func TestDeclarationsAreFound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.go")
	text := "package x\n// Gone is here only: if pid > 0 {\nfunc (c *Set[T]) Add() {\n\tif  pid>0 { /* never */ }\n}\n" +
		"const (\n\tA = \"a\"\n\tB = \"b\" // A\n)\ntype S struct{ F *bool }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, wanted := range map[string]struct{ has, lacks string }{
		"Set.Add": {"if pid > 0 {", "Gone"}, "A": {`"a"`, `"b"`}, "B": {`"b"`, "A"}, "S": {"F *bool", "pid"},
	} {
		got, err := declaration(file, name)
		if err != nil || !strings.Contains(got, wanted.has) || strings.Contains(got, wanted.lacks) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := declaration(file, "Add"); err == nil {
		t.Error("a method is found without its receiver")
	}
}

// TestFactsPage holds the page against this repository: version, files and tests, and that no comment cites a file of
// containerd's insides which is not on it.
func TestFactsPage(t *testing.T) {
	version, all := facts(t)
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "\t"+containerd+" "+version+"\n") {
		t.Errorf("the page was read in containerd %s, go.mod has another: read the facts again", version)
	}
	tests, listed := testsOf(t), map[string]bool{}
	for _, f := range all {
		for _, file := range f.used {
			if _, err := os.Stat(filepath.Join("../..", file)); err != nil {
				t.Errorf("%s: %v", f.title, err)
			}
		}
		for _, name := range f.noticed {
			if !tests[name] {
				t.Errorf("%s: there is no %s", f.title, name)
			}
		}
		for _, s := range f.read {
			listed[s.file], listed[filepath.Dir(s.file)] = true, true
		}
	}
	cited := regexp.MustCompile(`\b(?:internal/cri|plugins/(?:cri|services)|core/runtime|cmd/containerd-shim-runc-v2)/[\w/]+(?:\.go)?`)
	for _, file := range goFiles(t, "../../plugin", "../../internal") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, comment, ok := strings.Cut(line, "// ")
			if !ok || strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, path := range cited.FindAllString(comment, -1) {
				if !listed[path] && !strings.HasSuffix(filepath.Dir(file), path) {
					t.Errorf("%s cites %s, which the page does not list", file, path)
				}
			}
		}
	}
}

// declaration returns a top-level declaration without its comments, all space made one blank.
// Methods are named with their receiver.
func declaration(file, name string) (string, error) {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	var found ast.Node
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if nameOf(d) == name {
				found = d
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.Name == name {
						found = s
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.Name == name {
							found = s
						}
					}
				}
			}
		}
	}
	if found == nil {
		return "", os.ErrNotExist
	}
	var out bytes.Buffer
	if err := printer.Fprint(&out, fset, found); err != nil {
		return "", err
	}
	return spaced(out.String()), nil
}

// nameOf returns a function's name, that of a method after its receiver's type.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	if ident, ok := t.(*ast.Ident); ok {
		return ident.Name + "." + f.Name.Name
	}
	return ""
}

func spaced(code string) string { return strings.Join(strings.Fields(code), " ") }

// golist returns what Go knows of the containerd module that is built against.
func golist(t *testing.T, format string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", format, containerd).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// testsOf are the names of all tests of the repository.
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	for _, file := range goFiles(t, "../../plugin", "../../internal", "../../integration") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range function.FindAllStringSubmatch(string(text), -1) {
			tests[f[1]] = true
		}
	}
	return tests
}

func goFiles(t *testing.T, roots ...string) []string {
	t.Helper()
	var files []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if strings.HasSuffix(path, ".go") {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}
