package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// repository is one with the script and a changelog.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T, heading string) *repository {
	t.Helper()
	r := &repository{t, t.TempDir()}
	script, err := os.ReadFile("../version.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"contrib", "docs"} {
		if err := os.Mkdir(filepath.Join(r.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "contrib/version.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	r.changelog(heading)
	return r
}

func (r *repository) changelog(heading string) {
	r.t.Helper()
	text := "# Changes\n\n" + heading + "\n\nAll.\n\n## 0.0.1 (2026-01-01)\n"
	if err := os.WriteFile(filepath.Join(r.dir, "docs/CHANGELOG.md"), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repository) git(args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git",
		append([]string{"-C", r.dir, "-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git %s: %v: %s", args, err, out)
	}
}

func (r *repository) version() (string, error) {
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.dir, "contrib/version.sh"))
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func (r *repository) want(pattern string) {
	r.t.Helper()
	if got, err := r.version(); err != nil || !regexp.MustCompile("^"+pattern+"$").MatchString(got) {
		r.t.Errorf("version %q, %v, want %s", got, err, pattern)
	}
}

func TestVersion(t *testing.T) {
	r := newRepository(t, "## 1.2.3 (unreleased)")
	r.want(`1\.2\.3-dev`)
	r.git("init", "-q")
	r.git("add", ".")
	r.git("commit", "-q", "-m", "x")
	r.want(`1\.2\.3-dev\.[0-9a-f]{7}`)
	r.git("tag", "v1.2.3")
	r.want(`1\.2\.3-dev\.[0-9a-f]{7}`) // a tag does not release what is not ready
	r.git("tag", "-d", "v1.2.3")
	r.changelog("## 1.2.3 (2026-12-31)")
	r.want(`1\.2\.3-dev\.[0-9a-f]{7}\.dirty`)
	r.git("commit", "-q", "-a", "-m", "y")
	r.git("tag", "v1.2.2")
	r.want(`1\.2\.3-dev\.[0-9a-f]{7}`) // the tag is another one
	r.git("tag", "v1.2.3")
	r.want(`1\.2\.3`)
	r.changelog("## 1.2.3 (2027-01-01)")
	r.want(`1\.2\.3-dev\.[0-9a-f]{7}\.dirty`)

	newRepository(t, "## 1.2.3 (2026-12-31)").want(`1\.2\.3`) // as an archive of the sources has it
	for _, heading := range []string{"## 1.2.3", "## Unreleased", "## 1.2 (unreleased)", "## 1.2.3 (soon)"} {
		if got, err := newRepository(t, heading).version(); err == nil {
			t.Errorf("%s: version %q", heading, got)
		}
	}
}

// TestVersionOfThisTree wants a version in the changelog that can be told.
func TestVersionOfThisTree(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "../version.sh").Output()
	page, rerr := os.ReadFile("../../docs/CHANGELOG.md")
	if err != nil || rerr != nil {
		t.Fatal(err, rerr)
	}
	_, rest, _ := strings.Cut(string(page), "\n## ")
	number, _, _ := strings.Cut(rest, " ")
	if got := strings.TrimSpace(string(out)); got != number && !strings.HasPrefix(got, number+"-dev") {
		t.Errorf("version %q, the changelog begins with %q", got, number)
	}
}
