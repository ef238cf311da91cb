package integration

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// broughtToCRIU makes a node restore images that verification refuses, so that CRIU is the one to find them broken.
const broughtToCRIU = allowArchives + "\nverification = \"audit\""

// brokenImages are images that CRIU finds broken.
var brokenImages = []struct {
	name, file string
	change     func([]byte) []byte
}{
	{"pagemap cut off", "checkpoint/pagemap-1.img", func(b []byte) []byte { return b[:len(b)-5] }},
	{"memory map garbled", "checkpoint/mm-1.img", func(b []byte) []byte {
		b = slices.Clone(b)
		for i := 40; i < len(b); i++ {
			b[i] ^= 0x5a
		}
		return b
	}},
	{"other magic", "checkpoint/fs-1.img", func(b []byte) []byte { return append([]byte("not CRIU"), b[8:]...) }},
	{"nothing", "checkpoint/fs-1.img", func([]byte) []byte { return nil }},
}

func broken(t testing.TB, archive, file string, change func([]byte) []byte) string {
	t.Helper()
	return edited(t, archive, map[string]edit{file: func(b []byte) ([]byte, bool) { return change(b), true }})
}

var keptLog = regexp.MustCompile(`the whole log is (\S+)`)

// requireCRIUFailed starts a container whose restore must fail, and checks what the
// caller, CRI's status and the next caller are told. It returns the error's text.
func requireCRIUFailed(t *testing.T, c *harness.Container) string {
	t.Helper()
	err := c.TryStart()
	if err == nil {
		t.Fatal("a broken checkpoint was restored")
	}
	text := status.Convert(err).Message()
	if !strings.Contains(text, "CRIU says: Error (") {
		t.Errorf("the error has no line of CRIU's: %s", text)
	}
	if len(text) > 4096 {
		t.Errorf("the error has %d bytes: %s", len(text), text)
	}
	st := c.Status()
	if st.GetState() != runtime.ContainerState_CONTAINER_EXITED || st.GetReason() != "StartError" ||
		st.GetExitCode() != 128 {
		t.Errorf("status: %s, %s, %d, want EXITED, StartError, 128", st.GetState(), st.GetReason(), st.GetExitCode())
	}
	if !strings.Contains(st.GetMessage(), "CRIU says: Error (") {
		t.Errorf("message of the status: %q", st.GetMessage())
	}
	if err := c.TryStart(); err == nil || !strings.Contains(err.Error(), "EXITED") {
		t.Errorf("second start: got error %v, want one that says EXITED", err)
	}
	return text
}

// TestFailureCRIU lets CRIU fail: the reason is told in its own words, the log is kept,
// nothing else is, and the same request works with an honest checkpoint.
func TestFailureCRIU(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(broughtToCRIU+"\nfailed_logs = 3"))
	honest, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	var kept []string
	for _, tc := range brokenImages {
		t.Run(tc.name, func(t *testing.T) {
			before := n.Inventory(t)
			archive := broken(t, honest, tc.file, tc.change)
			c := pod.Create("counter", archive)
			text := requireCRIUFailed(t, c)
			kept = append(kept, requireKeptLog(t, n, c, text))
			c.Remove()
			forgetLog(t, c)
			n.RequireNoLeak(t, before)

			// The same request again, in every byte.
			if err := os.Rename(honest, archive); err != nil {
				t.Fatal(err)
			}
			defer func() { honest = archive }()
			again := pod.Run("counter", archive)
			requireContinues(t, again, counted)
			again.Remove()
			forgetLog(t, again)
			n.RequireNoLeak(t, before)
		})
	}
	t.Run("image", func(t *testing.T) {
		before := n.Inventory(t)
		tc := brokenImages[1]
		ref := imageOf(t, n, broken(t, honest, tc.file, tc.change))
		c := pod.Create("counter", ref)
		text := requireCRIUFailed(t, c)
		kept = append(kept, requireKeptLog(t, n, c, text))
		c.Remove()
		forgetLog(t, c)
		n.RemoveImage(ref)
		n.RequireNoLeak(t, before)
	})
	t.Run("pruned", func(t *testing.T) {
		var want []string
		for _, file := range kept[len(kept)-3:] {
			want = append(want, filepath.Base(file))
		}
		slices.Sort(want)
		if got := fileNames(t, n.FailedLogDir()); !slices.Equal(got, want) {
			t.Errorf("kept logs: %q, want the last three, %q", got, want)
		}
	})
	t.Run("none kept", func(t *testing.T) {
		n.Reconfigure(harness.WithRestoreConfig(`failed_log_dir = ""`))
		had := fileNames(t, n.FailedLogDir())
		before := n.Inventory(t)
		c := pod.Create("counter", broken(t, honest, brokenImages[0].file, brokenImages[0].change))
		if text := requireCRIUFailed(t, c); keptLog.MatchString(text) {
			t.Errorf("the error names a kept log: %s", text)
		}
		c.Remove()
		n.RequireNoLeak(t, before)
		if got := fileNames(t, n.FailedLogDir()); !slices.Equal(got, had) {
			t.Errorf("kept logs: %q, want %q as before", got, had)
		}
	})
}

// requireKeptLog checks the log that the error names: it is the whole one, for the
// operator's eyes only.
func requireKeptLog(t *testing.T, n *harness.Node, c *harness.Container, text string) string {
	t.Helper()
	found := keptLog.FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("the error does not name CRIU's log: %s", text)
	}
	if filepath.Dir(found[1]) != n.FailedLogDir() || !strings.Contains(found[1], c.ID) {
		t.Errorf("the log is %s, want it in %s with the container's ID", found[1], n.FailedLogDir())
	}
	info, err := os.Lstat(found[1])
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("%s: mode %s, want only the owner to read it", found[1], info.Mode())
	}
	content, err := os.ReadFile(found[1])
	if err != nil {
		t.Fatal(err)
	}
	_, says, _ := strings.Cut(text, "CRIU says: ")
	says, _, _ = strings.Cut(says, "; the whole log is ")
	for _, line := range strings.Split(says, " | ") {
		if !strings.Contains(string(content), strings.TrimSuffix(line, "...")) {
			t.Errorf("%s does not have the line %q", found[1], line)
		}
	}
	if !strings.Contains(string(content), "Version: 4.") {
		t.Errorf("%s does not begin as CRIU's logs do: it is not whole", found[1])
	}
	return found[1]
}

// TestFailureCRIUHangs gives CRIU fewer pages than it needs: it tries to read the rest
// for ever. When the caller has lost patience, CRIU and what it has made are killed.
func TestFailureCRIUHangs(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(broughtToCRIU))
	honest, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	before := n.Inventory(t)
	archive := broken(t, honest, "checkpoint/pages-1.img", func(b []byte) []byte { return b[:4096] })
	for _, cancelled := range []bool{false, true} {
		c := pod.Create("counter", archive)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if cancelled {
			// An end without a deadline, of which neither shim nor runc learn.
			time.AfterFunc(time.Second, cancel)
		}
		err := startIn(ctx, c)
		cancel()
		if got := status.Code(err); got != codes.DeadlineExceeded && got != codes.Canceled {
			t.Errorf("start: got %v, want it to end with its context", err)
		}
		st := requireSettles(t, c)
		if st.GetState() != runtime.ContainerState_CONTAINER_EXITED || st.GetReason() != "StartError" {
			t.Errorf("status: %s, %s, want EXITED, StartError", st.GetState(), st.GetReason())
		}
		if found := keptLog.FindStringSubmatch(st.GetMessage()); found == nil {
			t.Errorf("the message names no log of CRIU's: %s", st.GetMessage())
		} else if _, err := os.Stat(found[1]); err != nil {
			t.Error(err)
		}
		c.Remove()
		forgetLog(t, c)
		n.RequireNoLeak(t, before)
	}
	again := pod.Run("counter", honest)
	requireContinues(t, again, counted)
}

// startIn is Container.TryStart with a context of its own.
func startIn(ctx context.Context, c *harness.Container) error {
	_, err := c.Pod.Node().Runtime().StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID})
	return err
}

// requireSettles waits until a container whose start was given up by its caller is
// either running or not. containerd does that in the background, and tells nobody.
func requireSettles(t *testing.T, c *harness.Container) *runtime.ContainerStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := c.Status()
		if st.GetState() == runtime.ContainerState_CONTAINER_RUNNING ||
			st.GetState() == runtime.ContainerState_CONTAINER_EXITED {
			return st
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the container is still %s, %s", st.GetState(), st.GetMessage())
		}
	}
}

// TestFailureUnusable takes away, between create and start, what the start needs: the
// error says what is missing, and the container can be removed.
func TestFailureUnusable(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	honest, counted := countingCheckpoint(t, n)
	ref := imageOf(t, n, honest)
	pod := n.Pod(t)
	before := n.Inventory(t)

	c := pod.Create("counter", honest)
	unpacked, err := filepath.Glob(filepath.Join(n.Root(), "io.containerd.cri.v1.restore", "*", "archive"))
	if err != nil || len(unpacked) != 1 {
		t.Fatalf("unpacked archives: %q, error %v, want one", unpacked, err)
	}
	if err := os.RemoveAll(filepath.Join(unpacked[0], "config.dump")); err != nil {
		t.Fatal(err)
	}
	if err := c.TryStart(); err == nil || !strings.Contains(err.Error(), "config.dump is missing") {
		t.Errorf("start without config.dump: %v", err)
	}
	c.Remove()
	forgetLog(t, c)
	n.RequireNoLeak(t, before)

	// The view of an image is protected: neither the image's removal nor a garbage
	// collection, which Inventory waits for, takes it away.
	c = pod.Create("counter", ref)
	n.RemoveImage(ref)
	n.Inventory(t)
	c.Start()
	requireContinues(t, c, counted)
	c.Remove()
	n.RequireNoLeak(t, before)

	_, err = pod.TryCreate("counter", ref)
	requireRefused(t, err, codes.NotFound)
	if _, err := os.Stat(n.FailedLogDir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
