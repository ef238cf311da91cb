package integration

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const caseOurs = "our build"

// createAndStart measures one container, which is removed afterwards.
func createAndStart(b *testing.B, pod *harness.Pod, image string, opts ...harness.ContainerOpt) (s benchSample) {
	b.Helper()
	name := unique("bench")
	began := time.Now()
	c := pod.Create(name, image, opts...)
	s.Create = time.Since(began)
	c.Start()
	s.Start = time.Since(began) - s.Create
	c.Remove()
	forgetLog(b, c)
	return s
}

// BenchmarkOrdinary compares ordinary containers on our build with the same ones on the
// stock containerd. After the first container of an image ours may read no more of the
// content store than stock does.
func BenchmarkOrdinary(b *testing.B) {
	registry := harness.NewRegistry(b)
	var rows []*benchRow
	var opened [2]int
	for i, opts := range [][]harness.Option{{harness.WithBinary(stockContainerd(b))}, {}} {
		n := harness.New(b, append(opts, harness.WithRegistry(registry), harness.WithLogLevel("info"))...)
		image := n.ImageStatus(n.Image(harness.Busybox)).GetId()
		pod := n.Pod(b)
		pod.Run("first", image, harness.Counting()).Remove()
		count := watchBlobs(b, n)
		rows = append(rows, &benchRow{Benchmark: "ordinary", Case: []string{caseStock, caseOurs}[i], Containers: 1,
			Run: func() benchSample {
				count()
				s := createAndStart(b, pod, image, harness.Counting())
				opened[i] += count()
				return s
			}})
	}
	takeTurns(b, rows, 4*rounds(b))
	n := float64(4*rounds(b) + 1)
	fmt.Printf("blobs of the content store opened for each container: stock containerd %.2f, our build %.2f\n",
		float64(opened[0])/n, float64(opened[1])/n)
	if opened[1] > opened[0] {
		b.Errorf("our build opens %d blobs, stock containerd %d: detection reads content that it should remember", opened[1],
			opened[0])
	}
}

// watchBlobs returns a function that tells how many blobs have been opened since it
// was called last.
func watchBlobs(b *testing.B, n *harness.Node) func() int {
	b.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		b.Cleanup(func() { unix.Close(fd) })
		_, err = unix.InotifyAddWatch(fd, filepath.Join(n.Root(), "io.containerd.content.v1.content", "blobs", "sha256"),
			unix.IN_OPEN)
	}
	if err != nil {
		b.Fatalf("watch the content store: %v", err)
	}
	return func() (count int) {
		buf := make([]byte, 64<<10)
		for {
			read, err := unix.Read(fd, buf)
			if err != nil || read <= 0 {
				return count
			}
			for at := 0; at < read; count++ {
				// inotify(7): watch, mask, cookie, and the length of the name
				at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			}
		}
	}
}
