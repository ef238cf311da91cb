package integration

import (
	"testing"

	"google.golang.org/grpc/codes"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/image"
)

// buildahImage makes an image by buildah: how says what becomes of the archive ("add" unpacks it, "copy" does not).
func buildahImage(t *testing.T, p *harness.Podman, name, how, archive, target, annotation string) {
	t.Helper()
	c := p.Buildah("from", "scratch")
	p.Buildah(how, "--quiet", c, archive, target)
	p.Buildah("config", "--annotation", annotation+"=counter", c)
	p.Buildah("commit", "--quiet", c, name)
	p.Buildah("rm", c)
	p.Push(name)
}

// TestImageMakers restores one checkpoint from images that different programs make of it.
func TestImageMakers(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	p := n.Podman(t)
	archive, counted := countingCheckpoint(t, n)
	const crio, criu = "io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"
	for maker, build := range map[string]func(t *testing.T, p *harness.Podman, name string){
		"checkpointctl": func(_ *testing.T, p *harness.Podman, name string) {
			p.Checkpointctl("build", archive, name)
			p.Push(name)
		},
		"buildah": func(t *testing.T, p *harness.Podman, name string) {
			buildahImage(t, p, name, "add", archive, "/", crio)
		},
		"archive in one piece": func(t *testing.T, p *harness.Podman, name string) {
			buildahImage(t, p, name, "copy", archive, "/checkpoint.tar", criu)
		},
		"compressed archive in one piece": func(t *testing.T, p *harness.Podman, name string) {
			buildahImage(t, p, name, "copy", compressed(t, archive, image.Zstd), "/checkpoint", criu)
		},
	} {
		t.Run(maker, func(t *testing.T) {
			n, p := n.In(t), p.In(t)
			name := n.Image(unique("made") + ":1")
			build(t, p, name)
			n.Pull(name)
			before := n.Inventory(t)
			pod := n.Pod(t)
			c := pod.Create("restored", name)
			n.Kill()
			n.Start() // between the two nothing is lost
			c.Start()
			requireContinues(t, c, counted)
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// TestImageIndex restores from an index, which no annotation makes a checkpoint but that of the manifest in it.
func TestImageIndex(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	img := hostileImage(t, entriesOf(t, archive))
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	n.Registry().PushIndex("index:1", index)
	n.Pull(n.Image("index:1"))
	requireContinues(t, n.Pod(t).Run("restored", n.Image("index:1")), counted)
}

// TestAttackNested puts archives into images that are refused as archives are.
func TestAttackNested(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	inOnePiece := func(all []tarEntry) tarEntry { return regularEntry("checkpoint.tar", string(packed(t, all))) }
	for what, c := range map[string]struct {
		all   []tarEntry
		code  codes.Code
		words []string
	}{
		"link": {[]tarEntry{inOnePiece(withEntries(a.honest, specialEntry('2', "checkpoint/parent", "/")))},
			codes.InvalidArgument, []string{"parent", "link"}},
		"leaves": {[]tarEntry{inOnePiece(append(a.honest, regularEntry("../x", "x")))}, codes.InvalidArgument,
			[]string{`"../x"`}},
		"large": {[]tarEntry{inOnePiece(append(a.honest, regularEntry("large", string(make([]byte, 32<<20)))))},
			codes.ResourceExhausted, []string{"max_archive_size"}},
		"in itself": {[]tarEntry{inOnePiece([]tarEntry{inOnePiece(a.honest)})}, codes.InvalidArgument,
			[]string{"config.dump is missing"}},
		"damaged": {[]tarEntry{regularEntry("x.gz", "\x1f\x8b\x08damaged")}, codes.InvalidArgument,
			[]string{"ends too early"}},
	} {
		t.Run(what, func(t *testing.T) { a.refusesImage(t, c.all, c.code, c.words...) })
	}
	t.Run("honest", func(t *testing.T) {
		a.acceptsImage(t, []tarEntry{inOnePiece(a.honest)}, func(c *harness.Container) {
			c.Start()
			requireContinues(t, c, a.counted)
		})
	})
	a.goesOn(t)
}
