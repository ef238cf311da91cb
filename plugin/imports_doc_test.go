package plugin

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cri-restore/cri-restore/"

// Packages that every other may import, and those that only tests import.
var (
	forAll   = []string{"internal/recovery"}
	forTests = []string{"internal/criu/criutest"}
)

// TestImportTable holds the imports of our packages against the table in docs/design.md, in both directions: no import
// that the table lacks, none in the table that nobody needs, and each leads down the table.
func TestImportTable(t *testing.T) {
	page, err := os.ReadFile("../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	packages := importsOf(t)
	line, documented := map[string]int{}, map[string][]string{}
	for i, row := range table(t, string(page), "| folder | one noun | may import |") {
		name := strings.TrimSuffix(strings.Trim(row[0], "`"), "/")
		if !strings.HasPrefix(name, "internal/") {
			continue
		}
		if _, twice := line[name]; twice {
			t.Errorf("%s has two rows", name)
		}
		line[name], documented[name] = i, importCell(row[2])
		if packages[name] == nil {
			t.Errorf("%s has a row, but there is no such package", name)
		}
	}
	for name, imports := range packages {
		if name == "plugin" {
			continue // may import all
		}
		if _, ok := line[name]; !ok {
			t.Errorf("%s has no row", name)
			continue
		}
		for _, imported := range imports {
			switch {
			case slices.Contains(forAll, imported):
			case slices.Contains(forTests, imported):
				t.Errorf("%s imports %s, which is for tests", name, imported)
			case !slices.Contains(documented[name], imported):
				t.Errorf("%s imports %s, which its row does not allow", name, imported)
			case line[imported] <= line[name]:
				t.Errorf("%s imports %s, whose row is not below its own", name, imported)
			}
		}
		for _, allowed := range documented[name] {
			if !slices.Contains(imports, allowed) {
				t.Errorf("the row of %s allows %s, which it does not import", name, allowed)
			}
		}
	}
}

// importCell returns the packages that a cell of the table names: all words but those about packages of others.
func importCell(cell string) []string {
	if cell == "–" || strings.Contains(cell, "containerd") {
		return nil
	}
	var names []string
	for _, name := range strings.Split(cell, ", ") {
		names = append(names, "internal/"+name)
	}
	return names
}

// importsOf returns what each of our packages imports of our own, without tests.
func importsOf(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`,
		"../plugin", "../internal/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		imports := []string{}
		for _, imported := range words[1:] {
			if ours, ok := strings.CutPrefix(imported, module); ok {
				imports = append(imports, ours)
			}
		}
		packages[strings.TrimPrefix(words[0], module)] = imports
	}
	return packages
}
