package recovery

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// containerds are the methods that containerd calls, by the type that has them; others of these types are ours.
var containerds = map[string]func(method *ast.FuncType) bool{
	"Runtime": isRPC, "Images": isRPC, "Refusing": isRPC, "Tasks": isRPC, "Containers": isRPC,
}

// unwatched are goroutines without a recovery, and why.
var unwatched = map[string]string{
	"internal/guard/mountns.go":        "of another process, restore-guard",
	"internal/guard/inspect.go":        "of another process, restore-guard, and caught there",
	"internal/pageserver/supervise.go": "of another process, restore-pages",
	"internal/pageserver/start.go":     "waits for a process and sets a deadline, no more",
	"internal/mounts/detach.go":        "unmounts, no more",
	"internal/cgroup/wait.go":          "closes a pipe, no more",
	"internal/rights/user.go":          "asks the kernel, no more",
}

// isRPC says that a method has a request and a response of gRPC, or a stream of them.
func isRPC(f *ast.FuncType) bool {
	if f.Params.NumFields() == 2 && strings.Contains(text(f.Params.List[1].Type), "ServerStreamingServer[") {
		return true
	}
	return f.Params.NumFields() >= 2 && f.Results.NumFields() == 2 &&
		strings.Contains(text(f.Results.List[0].Type), "Response")
}

func text(n ast.Node) string {
	var out bytes.Buffer
	if err := printer.Fprint(&out, token.NewFileSet(), n); err != nil {
		panic(err)
	}
	return out.String()
}

// sources calls f with the files of the plugin, without tests.
func sources(t *testing.T, f func(name string, file *ast.File)) {
	t.Helper()
	for _, dir := range []string{"internal", "plugin"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err == nil {
				f(filepath.ToSlash(strings.TrimPrefix(path, filepath.Join("..", "..")+string(filepath.Separator))), file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Every method that containerd calls begins with a recovery.
func TestEveryMethodRecovers(t *testing.T) {
	seen := map[string]int{}
	sources(t, func(name string, file *ast.File) {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !f.Name.IsExported() {
				continue
			}
			receiver := strings.TrimPrefix(text(f.Recv.List[0].Type), "*")
			if of := containerds[receiver]; of == nil || !of(f.Type) {
				continue
			}
			seen[receiver]++
			first := text(f.Body.List[0])
			if first == "ctx := stream.Context()" {
				first = text(f.Body.List[1])
			}
			if !strings.HasPrefix(first, "defer recovery.Into(ctx, &") {
				t.Errorf("%s: %s.%s begins with %q", name, receiver, f.Name, first)
			}
		}
	})
	for receiver := range containerds {
		if seen[receiver] < 1 {
			t.Errorf("%d methods of %s were found", seen[receiver], receiver)
		}
	}
}

// So does every goroutine.
func TestEveryGoroutineRecovers(t *testing.T) {
	found := map[string]bool{}
	sources(t, func(name string, file *ast.File) {
		if strings.HasPrefix(name, "internal/recovery/") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			var started ast.Node
			switch n := n.(type) {
			case *ast.GoStmt:
				started = n
			case *ast.CallExpr:
				// Of sync.WaitGroup, errgroup.Group, singleflight.Group and context.
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "Go" || s.Sel.Name == "DoChan" ||
					s.Sel.Name == "AfterFunc") {
					started = n
				}
			}
			if started == nil {
				return true
			}
			found[name] = true
			if call := text(started); !strings.Contains(call, "recovery.") && unwatched[name] == "" {
				t.Errorf("%s: a goroutine that does not recover: %s", name, call)
			}
			return true
		})
	})
	for name := range unwatched {
		if !found[name] {
			t.Errorf("%s starts no goroutine", name)
		}
	}
	if len(found) < 8 {
		t.Errorf("found %v", found)
	}
}
