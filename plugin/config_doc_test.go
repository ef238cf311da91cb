package plugin

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/cri-restore/cri-restore/internal/policy"
)

// The page that operators read, from this package's directory.
const configurationPage = "../docs/configuration.md"

// typeNames are the page's words for the types of keys.
var typeNames = map[reflect.Type]string{
	reflect.TypeFor[any]():      "boolean or list of strings",
	reflect.TypeFor[bool]():     "boolean",
	reflect.TypeFor[string]():   "string",
	reflect.TypeFor[[]string](): "list of strings",
	reflect.TypeFor[int]():      "integer",
	reflect.TypeFor[int64]():    "integer",
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// TestConfigurationPage compares the keys that the page documents, their types
// and defaults with the code.
func TestConfigurationPage(t *testing.T) {
	page := readPage(t)
	documented := map[string][]string{}
	for _, row := range table(t, page, "| key | type | default |") {
		keys := codeSpan.FindStringSubmatch(row[0])
		if keys == nil || documented[keys[1]] != nil {
			t.Fatalf("row %q: no key, or one that is there twice", row)
		}
		documented[keys[1]] = row
	}

	defaults := reflect.ValueOf(DefaultConfig())
	for i := range defaults.NumField() {
		field := defaults.Type().Field(i)
		key := field.Tag.Get("toml")
		row, ok := documented[key]
		if !ok {
			t.Errorf("%s: not in the table of keys", key)
			continue
		}
		delete(documented, key)
		if want := typeNames[field.Type]; row[1] != want {
			t.Errorf("%s: documented as %q, is %q", key, row[1], want)
		}
		if !strings.Contains(page, "\n### `"+key+"`\n") {
			t.Errorf("%s: has no section", key)
		}
		value := codeSpan.FindStringSubmatch(row[2])
		if value == nil {
			t.Errorf("%s: no default in %q", key, row[2])
			continue
		}
		var got Config
		if err := toml.Unmarshal([]byte(key+" = "+value[1]), &got); err != nil {
			t.Errorf("%s: documented default %s: %v", key, value[1], err)
			continue
		}
		is, want := reflect.ValueOf(got).Field(i).Interface(), defaults.Field(i).Interface()
		if !reflect.DeepEqual(is, want) {
			t.Errorf("%s: documented default %v, is %v", key, is, want)
		}
	}
	for key := range documented {
		t.Errorf("%s: documented, but no key", key)
	}
}

// TestConfigurationPagePatterns tries the page's examples of patterns.
func TestConfigurationPagePatterns(t *testing.T) {
	for _, row := range table(t, readPage(t), "| pattern | matches | does not match |") {
		pattern := codeSpan.FindStringSubmatch(row[0])
		if pattern == nil {
			t.Fatalf("row %q: no pattern", row)
		}
		p, err := policy.New(policy.Config{Images: []string{pattern[1]}})
		if err != nil {
			t.Errorf("%s: %v", pattern[1], err)
			continue
		}
		for column, want := range map[int]bool{1: true, 2: false} {
			for _, name := range codeSpan.FindAllStringSubmatch(row[column], -1) {
				if got := p.Image("", name[1]) == nil; got != want {
					t.Errorf("%s matches %s: %t, documented %t", pattern[1], name[1], got, want)
				}
			}
		}
	}
}

// TestConfigurationPageErrors produces the errors that the page quotes.
func TestConfigurationPageErrors(t *testing.T) {
	page := readPage(t)
	for key, change := range map[string]func(*Config){
		"allow_archives":          func(c *Config) { c.AllowArchives = "yes" },
		"allowed_images":          func(c *Config) { c.AllowedImages = []string{"a/**/b"} },
		"verification":            func(c *Config) { c.Verification = "off" },
		"verification_timeout":    func(c *Config) { c.VerificationTimeout = "0s" },
		"checkpoint_compression":  func(c *Config) { c.CheckpointCompression = "gzip" },
		"tcp_connections":         func(c *Config) { c.TCPConnections = "keep" },
		"lazy_pages":              func(c *Config) { c.LazyPages = "yes" },
		"pod_annotations":         func(c *Config) { c.PodAnnotations = []string{"lazy"} },
		"base_image_pull_timeout": func(c *Config) { c.BaseImagePullTimeout = "soon" },
		"criu_config":             func(c *Config) { c.CRIUConfig = "runc.conf" },
		"failed_log_dir":          func(c *Config) { c.FailedLogDir = "../x" },
		"failed_logs":             func(c *Config) { c.FailedLogs = -1 },
		"max_metadata_size":       func(c *Config) { c.MaxMetadataSize = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		_, err := c.validate(t.TempDir())
		if err == nil {
			t.Errorf("%s: no error", key)
			continue
		}
		text := strings.TrimPrefix(err.Error(), "invalid configuration: ")
		for class := errors.Unwrap(err); class != nil; class = errors.Unwrap(class) {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
		// The pattern's own error carries its class as well.
		text = strings.TrimSuffix(text, ": invalid argument")
		if !strings.HasPrefix(text, key+": ") || !strings.Contains(page, "`"+text+"`") {
			t.Errorf("the page does not quote %q", text)
		}
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// table returns the cells of the Markdown table below the header.
func table(t *testing.T, page, header string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+header+"\n")
	if !ok {
		t.Fatalf("no table %q", header)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != strings.Count(header, "|")-1 {
			t.Fatalf("row %q does not fit %q", line, header)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) == 0 {
		t.Fatalf("table %q is empty", header)
	}
	return rows
}
