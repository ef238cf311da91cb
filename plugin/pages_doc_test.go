package plugin

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLinks follows every relative link of the pages, to its heading.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	more, err := filepath.Glob("../docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range append(append(pages, more...), "../README.md", "../integration/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			target, heading, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			content, err := os.ReadFile(file)
			if _, serr := os.Stat(file); serr != nil {
				t.Errorf("%s: %s: %v", page, found[1], serr)
			} else if heading != "" && (err != nil || !anchors(string(content))[heading]) {
				t.Errorf("%s: %s: there is no such heading", page, found[1])
			}
		}
	}
}

// anchors are the names by which the headings of a page are linked to (GitHub's rules).
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(page) {
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			all[strings.ReplaceAll(name, " ", "-")] = true
		}
	}
	return all
}

// TestIntegrationPage holds the list of prefixes against the files, in both directions.
func TestIntegrationPage(t *testing.T) {
	page, err := os.ReadFile("../integration/README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range table(t, string(page), "| files | what is tested |") {
		for _, prefix := range strings.Split(row[0], ", ") {
			documented[prefix] = false
		}
	}
	files, err := filepath.Glob("../integration/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		prefix, _, _ := strings.Cut(filepath.Base(file), "_")
		if _, ok := documented[prefix+"_"]; !ok {
			t.Errorf("%s has no row", filepath.Base(file))
		}
		documented[prefix+"_"] = true
	}
	for prefix, used := range documented {
		if !used {
			t.Errorf("no file is called %s", prefix)
		}
	}
	for _, row := range table(t, string(page), "| word | what it does |") {
		for _, word := range codeSpan.FindAllStringSubmatch(row[1], -1) {
			t.Errorf("%s: code in the wrong cell", word[1])
		}
		for _, word := range codeSpan.FindAllStringSubmatch(row[0], -1) {
			if !defined(t, files, word[1]) {
				t.Errorf("there is no %s", word[1])
			}
		}
	}
}

func defined(t *testing.T, files []string, function string) bool {
	t.Helper()
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+function+"(") {
			return true
		}
	}
	return false
}
