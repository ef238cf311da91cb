package criu

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// fake writes a criu that prints a version and runs check for "criu check".
func fake(t *testing.T, version, check string) string {
	t.Helper()
	return filepath.Join(script(t, 0o755, `case "$1" in
--version) `+version+` ;;
check) `+check+` ;;
*) exit 99 ;;
esac
`), "criu")
}

// check makes both checks, as a node does.
func check(ctx context.Context, binary string) (Version, error) {
	v, err := CheckVersion(ctx, binary)
	if err == nil {
		err = CheckKernel(ctx, binary)
	}
	return v, err
}

// What CRIU says of a loopback interface that is down nobody would understand.
func TestCheckLoopback(t *testing.T) {
	up := loopbackUp
	t.Cleanup(func() { loopbackUp = up })
	failing := fake(t, `echo Version: 4.1`,
		`echo 'Error (criu/kerndat.c:732): Unable to connect a socket: Network is unreachable' >&2; exit 1`)
	for _, c := range []struct {
		up   bool
		want bool
	}{{false, true}, {true, false}} {
		loopbackUp = func() bool { return c.up }
		_, err := check(t.Context(), failing)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "Network is unreachable") ||
			strings.Contains(err.Error(), "ip link set lo up") != c.want {
			t.Errorf("up %t: %v", c.up, err)
		}
	}
	loopbackUp = func() bool { return false }
	if _, err := check(t.Context(), fake(t, `echo Version: 4.1`, `:`)); err != nil {
		t.Errorf("CRIU does without: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name, version, check string
		want                 Version
		says                 []string // nil: no error
	}{
		{"release", `printf 'Version: 4.1.1\n'`, `echo Looks good.`, 40101, nil},
		{"4.3.1", `printf 'Version: 4.3.1\n'`, `:`, 40301, nil},
		{"git", `printf 'Version: 4.2\nGitID: v4.2-12-gabc\n'`, `:`, 40200, nil},
		{"oldest", `echo Version: 4.1`, `:`, MinVersion, nil},
		{"next", `echo Version: 10.12.13`, `:`, 101213, nil},
		{"warning first", `echo 'Warn  (criu/x.c:1): x' >&2; echo Version: 4.1`, `:`, MinVersion, nil},
		{"old", `echo Version: 4.0.99`, `:`, 40099, []string{"version 4.0.99", "needed is 4.1 or newer"}},
		{"Debian 12", `echo Version: 3.17.1`, `:`, 31701, []string{"version 3.17.1", "needed is 4.1"}},
		{"no version", `echo hello`, `:`, 0, []string{"no version", "hello", "is this CRIU"}},
		{"nothing", `:`, `:`, 0, []string{"no version"}},
		{"version fails", `echo 'cannot open shared object file' >&2; exit 127`, `:`, 0,
			[]string{"--version", "127", "cannot open shared object"}},
		{
			"check fails", `echo Version: 4.1`,
			`echo '(00.001) Warn  (criu/cr-check.c:1): no'; echo 'Error (criu/cr-check.c:2): kernel too old' >&2; echo 'Looks bad.'; exit 1`,
			MinVersion, []string{"check", "exit status 1", "Error (criu/cr-check.c:2): kernel too old", "as root"},
		},
		{
			"check fails without mark", `echo Version: 4.1`, `for i in 1 2 3 4 5 6 7 8 9; do echo line$i; done; exit 1`,
			MinVersion, []string{"line5; line6; line7; line8; line9"},
		},
		{"check killed", `echo Version: 4.1`, `kill -9 $$`, MinVersion, []string{"signal: killed"}},
		{"endless output", `echo Version: 4.1`, `yes | head -c 1000000; echo last; exit 1`, MinVersion, []string{"last"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := check(t.Context(), fake(t, tc.version, tc.check))
			if got != tc.want {
				t.Errorf("version %d, want %d", got, tc.want)
			}
			if len(tc.says) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsFailedPrecondition(err) {
				t.Errorf("class: %v", err)
			}
			for _, s := range tc.says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("does not say %q: %v", s, err)
				}
			}
			if err != nil && len(err.Error()) > 4096 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
	_, err := check(t.Context(), "/nonexistent/criu")
	if !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

func TestCheckTimeout(t *testing.T) {
	// A child that holds the output must go too: otherwise the end comes only
	// when waiting for it is given up.
	for name, binary := range map[string]string{
		"version": fake(t, `sleep 60 & wait`, `:`),
		"check":   fake(t, `echo Version: 4.1`, `trap '' TERM INT; sleep 60 & wait`),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		start := time.Now()
		_, err := check(ctx, binary)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), binary) {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(start); d > waitDelay {
			t.Errorf("%s: took %s", name, d)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := check(ctx, fake(t, `echo Version: 4.1`, `:`)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestVersionString(t *testing.T) {
	for v, want := range map[Version]string{40101: "4.1.1", 40100: "4.1", 31701: "3.17.1", 101213: "10.12.13", 0: "0.0"} {
		if got := v.String(); got != want {
			t.Errorf("%d: %s, want %s", int(v), got, want)
		}
	}
}
