package integration

import (
	"archive/tar"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestAttackShm gives a checkpoint files of /dev/shm that no container can have left there, or too many of them. They
// are unpacked on the node, into the pod's memory.
func TestAttackShm(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	with := func(all ...tarEntry) string {
		return doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("devshm-checkpoint.tar", string(packed(t, all)))))
	}
	for what, c := range map[string]struct {
		all   []tarEntry
		code  codes.Code
		words []string
	}{
		"device": {[]tarEntry{specialEntry(tar.TypeChar, "mem", "")}, codes.InvalidArgument,
			[]string{"devshm-checkpoint.tar", `"mem"`}},
		"parent": {[]tarEntry{regularEntry("../x", "x")}, codes.InvalidArgument,
			[]string{"leaves the root file system"}},
		"hard link to outside": {[]tarEntry{specialEntry(tar.TypeLink, "x", a.secret)}, codes.InvalidArgument,
			[]string{"devshm-checkpoint.tar"}},
		"too large": {[]tarEntry{regularEntry("x", string(make([]byte, 8<<20)))}, codes.ResourceExhausted,
			[]string{"max_diff_size"}},
		"no archive": {nil, codes.InvalidArgument, []string{"devshm-checkpoint.tar"}},
	} {
		t.Run(what, func(t *testing.T) {
			archive := with(c.all...)
			if c.all == nil {
				archive = doctoredArchive(t, a.n, withEntries(a.honest,
					regularEntry("devshm-checkpoint.tar", string(make([]byte, 100))+"x")))
			}
			a.refuses(t, archive, c.code, c.words...)
		})
	}
	t.Run("link", func(t *testing.T) {
		// It means something in the container, and nothing on the node.
		a.accepts(t, with(specialEntry(tar.TypeSymlink, "link", a.secret), regularEntry("honest", "x")),
			func(c *harness.Container) {
				c.Start()
				requireContinues(t, c, a.counted)
				c.Exec("sh", "-ec", `test "$(cat /dev/shm/honest)" = x; test -L /dev/shm/link; ! cat /dev/shm/link 2>/dev/null`)
			})
	})
	a.goesOn(t)
}
