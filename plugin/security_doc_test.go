package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// integrationTests are the names of the integration tests.
func integrationTests(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../integration/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d test files, %v", len(files), err)
	}
	tests := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range function.FindAllStringSubmatch(string(source), -1) {
			tests[f[1]] = true
		}
	}
	return tests
}

// TestCompatibilityPage wants a test that there is behind every row of the page.
func TestCompatibilityPage(t *testing.T) {
	page, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := integrationTests(t)
	for _, header := range []string{
		"| producer | as | outcome | test |", "| | containerd | CRI-O | Podman | test |", "| reader | outcome | test |",
	} {
		for _, row := range table(t, string(page), header) {
			for _, name := range strings.Split(row[len(row)-1], ", ") {
				if !tests[name] {
					t.Errorf("%s: there is no %q", row[0], name)
				}
			}
		}
	}
}

// TestSecurityPage wants every attack of the project's list on the page, once, with tests that
// there are.
func TestSecurityPage(t *testing.T) {
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := integrationTests(t)
	seen := map[string]bool{}
	for _, row := range table(t, string(page), "| | attack | outcome | test |") {
		if seen[row[0]] {
			t.Errorf("%s is there twice", row[0])
		}
		seen[row[0]] = true
		if row[1] == "" || row[2] == "" || row[3] == "" {
			t.Errorf("%s: an empty cell", row[0])
		}
		for _, name := range strings.Split(row[3], ", ") {
			if !tests[name] {
				t.Errorf("%s: there is no %q", row[0], name)
			}
		}
	}
	for i := 1; i <= 65; i++ {
		if name := fmt.Sprintf("T%02d", i); !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}
