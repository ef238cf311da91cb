package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/integration/testimage"
)

// listing prints every file of a root file system: type and mode, links, owner, size
// and time (directories have neither of these two), target, and the sum of the content.
// Left out is what CRI mounts, and the mount points of what runc mounts.
const listing = `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf \) -prune -o -print |
	sort | while read -r f; do
		if [ -L "$f" ]; then echo "$f $(stat -c '%f %u:%g %Y' "$f") -> $(readlink "$f")"
		elif [ -d "$f" ]; then echo "$f $(stat -c '%f %u:%g' "$f")"
		elif [ -f "$f" ]; then echo "$f $(stat -c '%f %h %u:%g %s %Y' "$f") $(md5sum < "$f")"
		else echo "$f $(stat -c '%f %u:%g %Y' "$f")"
		fi
	done`

// changes makes every kind of change to a root file system that there is.
const changes = `set -e
	echo new > /data/new; chmod 0640 /data/new; chown 1000:1000 /data/new
	mkdir -p /new/sub/dir; chmod 1777 /new/sub; chown 1000:0 /new/sub/dir
	dd if=/dev/urandom of=/new/sub/dir/big bs=64k count=40 2>/dev/null
	: > /new/empty
	echo suid > /new/suid; chmod 4755 /new/suid
	mkfifo -m 0600 /new/fifo
	ln -s ../data/keep-me /new/link
	ln -s /nowhere/at/all /new/dangling
	ln /data/new /new/hard
	echo old > /new/old; touch -d '2001-02-03 04:05:06' /new/old
	echo more >> /data/change-me
	rm /data/delete-me
	rm -r /gone
	chmod 0700 /home/app; chown 0:1000 /root
	rm -r /opaque; mkdir /opaque; echo three > /opaque/three
	rm -r /became-file; echo file > /became-file
	rm /became-dir; mkdir /became-dir; echo dir > /became-dir/file
	rm /became-link; ln -s data /became-link
	mv /moved/a /moved/b
	echo 'a name with spaces' > '/new/with spaces and ü'
`

var rootfsFiles = map[string]string{
	"/gone/file": "gone\n", "/gone/sub/file": "gone too\n",
	"/opaque/one": "one\n", "/opaque/two": "two\n", "/opaque/sub/file": "sub\n",
	"/became-file/inside": "inside\n", "/became-dir": "a file\n", "/became-link": "a file\n",
	"/moved/a": "moved\n",
}

// TestRestoreRootfs compares the whole root file system of a restored container with
// that of the checkpointed one (point 6). Neither the base image nor the checkpoint image
// may be changed by that: other containers of the two see what they saw before.
func TestRestoreRootfs(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	base := pushTestImage(t, n, testimage.Options{Files: rootfsFiles})
	before := n.Inventory(t)

	pod := n.Pod(t)
	c := pod.Run("counter", base, harness.Counting())
	original := c.Exec("/bin/sh", "-c", listing)
	c.Exec("/bin/sh", "-c", changes)
	want := c.Exec("/bin/sh", "-c", listing)
	counted := c.WaitCount(3)
	archive := checkpointOf(t, c)
	pod.Remove()
	n.RequireNoLeak(t, before)
	for _, path := range []string{"/gone/file", "/opaque/one", "/data/delete-me"} {
		if !strings.Contains(original, path+" ") || strings.Contains(want, path+" ") {
			t.Fatalf("the test deletes %s from the image and keeps it", path)
		}
	}

	name := imageOf(t, n, archive)
	before = n.Inventory(t)
	for _, round := range []string{"first", "second"} {
		pod := n.Pod(t)
		restored := pod.Create("restored", name)
		restored.Start()
		requireContinues(t, restored, counted)
		requireSameListing(t, round+" restored container", restored.Exec("/bin/sh", "-c", listing), want)
		// The next restore must not see what this one does.
		restored.Exec("/bin/sh", "-c", "rm -r /new /opaque; echo spoiled > /data/new")

		fresh := pod.Run("fresh", base, harness.Counting())
		fresh.WaitCount(1)
		requireSameListing(t, "new container of the base image", fresh.Exec("/bin/sh", "-c", listing), original)
		pod.Remove()
	}
	n.RequireNoLeak(t, before)
}

// TestRestoreLog looks at the log between create and start, and after it (point 6).
func TestRestoreLog(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox),
		harness.Shell(`echo "on stderr" >&2; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	counted := c.WaitCount(5)
	archive := checkpointOf(t, c)
	pod.Remove()
	name := imageOf(t, n, archive)
	old := string(tarFile(t, archive, "container.log"))

	t.Run("old lines before the start", func(t *testing.T) {
		pod := n.Pod(t)
		c := pod.Create("restored", name, harness.LogPath("elsewhere/1.log"))
		if got := readFile(t, c.LogFile()); got != old {
			t.Errorf("log before the start: got\n%s\nwant\n%s", got, old)
		}
		if !slices.ContainsFunc(c.LogLines(), func(l harness.LogLine) bool {
			return l.Stream == "stderr" &&
				l.Text == "on stderr"
		}) {
			t.Errorf("no line on stderr in\n%s", old)
		}
		if fi, err := os.Stat(c.LogFile()); err != nil || fi.Mode().Perm() != 0o640 {
			t.Errorf("log file: mode %v, error %v, want 0640", fi.Mode(), err)
		}
		c.Start()
		c.WaitCount(counted + 10)
		if got := readFile(t, c.LogFile()); !strings.HasPrefix(got, old) {
			t.Errorf("the old lines are gone:\n%s", got)
		}
	})
	t.Run("existing file", func(t *testing.T) {
		const existing = "2024-05-06T07:08:09.123456789Z stdout F was there\n"
		pod := n.Pod(t)
		file := filepath.Join(pod.Config.GetLogDirectory(), "restored_0.log")
		if err := os.WriteFile(file, []byte(existing), 0o640); err != nil {
			t.Fatal(err)
		}
		c := pod.Create("restored", name)
		if got := readFile(t, file); got != existing+old {
			t.Errorf("log before the start: got\n%s\nwant\n%s", got, existing+old)
		}
		c.Start()
		c.WaitCount(counted + 10)
		if got := readFile(t, file); !strings.HasPrefix(got, existing+old) {
			t.Errorf("the old lines are gone:\n%s", got)
		}
	})
	t.Run("no log", func(t *testing.T) {
		c := n.Pod(t, harness.PodLogDirectory("")).Run("restored", name, func(c *runtime.ContainerConfig) { c.LogPath = "" })
		if got := c.Exec("cat", "/proc/1/cmdline"); !strings.Contains(got, "on stderr") {
			t.Errorf("the first process is %q", got)
		}
	})
	t.Run("nothing was logged", func(t *testing.T) {
		pod := n.Pod(t, harness.PodLogDirectory(""))
		c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting(),
			func(c *runtime.ContainerConfig) { c.LogPath = "" })
		archive := checkpointOf(t, c)
		pod.Remove()
		restored := n.Pod(t).Create("restored", imageOf(t, n, archive))
		if lines := restored.Log(); len(lines) != 0 {
			t.Errorf("the log has lines before the start: %q", lines)
		}
		restored.Start()
		restored.WaitLog(func(lines []string) bool { return len(lines) > 3 })
	})
}

func requireSameListing(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	t.Errorf("%s: its root file system is another one:\nonly there: %s\nmissing: %s", what,
		strings.Join(minus(gotLines, wantLines), "\n\t"), strings.Join(minus(wantLines, gotLines), "\n\t"))
}

func minus(a, b []string) []string {
	in := map[string]bool{}
	for _, s := range b {
		in[s] = true
	}
	var rest []string
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// pushTestImage pushes a test image to the node's registry and pulls it.
func pushTestImage(t *testing.T, n *harness.Node, opts testimage.Options) string {
	t.Helper()
	img, err := testimage.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	repository := unique("base") + ":1"
	n.Registry().Push(repository, img)
	n.In(t).Pull(n.Image(repository))
	return n.Image(repository)
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
