package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

const restoreLog = `(00.000000) Version: 4.1.1 (gitid 0)
(00.000058) Running on node Linux 6.18.44
(00.001200) Warn  (criu/kerndat.c:1470): CRIU was built without libnftables support
(00.003411)      1: Opened local page read 1 (parent 0)
(00.005500)      1: Error (criu/files-reg.c:2294): File . has bad mode 040755 (expect 040555)
(00.005512)      1: Error (criu/files-reg.c:2294): File . has bad mode 040755 (expect 040555)
(00.005613)     29: Error (criu/files-reg.c:2294): File . has bad mode 040755 (expect 040555)
(00.005700) pie: 29: Error (criu/pie/restorer.c:1): Can't restore 29
(00.005900) Error (criu/cr-restore.c:1226): 1 exited, status=1
(00.006000) Error (criu/cr-restore.c:2605): Restoring FAILED.
`

var restoreErrors = []string{
	"Error (criu/files-reg.c:2294): File . has bad mode 040755 (expect 040555)",
	"Error (criu/pie/restorer.c:1): Can't restore 29",
	"Error (criu/cr-restore.c:1226): 1 exited, status=1",
	"Error (criu/cr-restore.c:2605): Restoring FAILED.",
}

func logFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "restore.log")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestErrorLines(t *testing.T) {
	for _, tc := range []struct {
		name               string
		content            string
		maxLines, maxBytes int
		want               []string
	}{
		{"all", restoreLog, 10, 4096, restoreErrors},
		{"harmless last",
			"(00.1) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n(00.2) " +
				"Error (criu/image.c:866): Img trimmed 3/4\n", 10, 4096,
			[]string{"Error (criu/image.c:866): Img trimmed 3/4",
				"Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"}},
		{"two lines", restoreLog, 2, 4096, restoreErrors[:2]},
		{"no line", restoreLog, 0, 4096, nil},
		{"no bytes", restoreLog, 10, 0, nil},
		{"negative", restoreLog, -1, -1, nil},
		{"exact bytes", restoreLog, 10, len(restoreErrors[0]), restoreErrors[:1]},
		{"cut", restoreLog, 10, len(restoreErrors[0]) + 15, []string{restoreErrors[0], "Error (criu/..."}},
		{"cut at a character", "Error (x): ééééé\n", 10, 17, []string{"Error (x): é..."}},
		{"no error", "(00.1) Warn  (criu/x.c:1): fine\n", 10, 4096, nil},
		{"empty", "", 10, 4096, nil},
		{"last line not ended", "(00.1) 1: Error (x.c:1): y", 10, 4096, []string{"Error (x.c:1): y"}},
		{"control characters", "(00.1) Error (x.c:1): \x1b[2Ja\tb\x00c\xff\r\n", 10, 4096,
			[]string{"Error (x.c:1): ?[2Ja?b?c?"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ErrorLines(logFile(t, tc.content), tc.maxLines, tc.maxBytes)
			if err != nil {
				t.Fatal(err)
			}
			if len(got)+len(tc.want) > 0 && !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// Only the end is read, and a line that is cut there is not taken.
func TestErrorLinesHuge(t *testing.T) {
	file := logFile(t, "(00.1) Error (x.c:1): first\n")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	last := "\n(00.2) Error (x.c:2): last\n"
	if _, err := f.WriteString(last); err != nil {
		t.Fatal(err)
	}
	got, err := ErrorLines(file, 10, 4096)
	if want := []string{"Error (x.c:2): last"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}

	// The mark stands in the part that is read, the line begins before it.
	cut := "(00.1) Error (x.c:1): cut\n"
	rest := strings.Repeat(fmt.Sprintf("%063d\n", 0), maxTail/64)
	got, err = ErrorLines(logFile(t, cut+rest[:len(rest)-len(cut)+4]), 10, 4096)
	if err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	// Its twin is whole.
	got, err = ErrorLines(logFile(t, cut+rest[:len(rest)-len(cut)]), 10, 4096)
	if err != nil || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestErrorLinesFile(t *testing.T) {
	good := logFile(t, restoreLog)
	dir := t.TempDir()
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{link, fifo, dir, "/dev/zero"} {
		if got, err := ErrorLines(file, 10, 4096); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	_, err := ErrorLines(filepath.Join(dir, "none"), 10, 4096)
	if !errdefs.IsNotFound(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
