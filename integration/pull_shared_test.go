package integration

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPullShared lets several requests need one base image from a registry that does
// not answer until the test says so.
func TestPullShared(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)

	t.Run("at once", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		arrived, release := n.front.hold(lastLayer(t, img))
		defer release()
		type created struct {
			c   *harness.Container
			err error
		}
		done := make(chan created)
		const count = 4
		pods := []*harness.Pod{n.Pod(t), n.Pod(t)}
		for i := range count {
			name, pod := unique("together"), pods[i%len(pods)]
			go func() {
				c, err := pod.TryCreate(name, image)
				done <- created{c, err}
			}()
		}
		await(t, arrived, "the pull")
		awaitLog(t, n.Node, "CreateContainer within sandbox", count, "together-")
		release()
		for range count {
			got := await(t, done, "a container")
			if got.err != nil {
				t.Errorf("create: %v", got.err)
				continue
			}
			got.c.Start()
			requireContinues(t, got.c, n.counted)
		}
		requirePulledByDigest(t, n.front, repository, img)
	})

	t.Run("deadline", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		_, release := n.front.hold(lastLayer(t, img))
		defer release()
		pod, name := n.Pod(t), unique("patient")
		const timeout = 4 * time.Second
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := createWith(ctx, pod, name, image)
		// The server's own words, and not just that the client's time was over.
		requireRefused(t, err, codes.DeadlineExceeded, image, reference, "still being pulled", "retry")
		if took := time.Since(began); took > timeout {
			t.Errorf("the request with a deadline of %v took %v", timeout, took)
		}
		requireNoRestore(t, n.Node)

		type created struct {
			id  string
			err error
		}
		again := make(chan created, 1)
		go func() {
			id, err := createWith(callContext(t), pod, name, image)
			again <- created{id, err}
		}()
		awaitLog(t, n.Node, "CreateContainer within sandbox", 3, name) // twice at the beginning, once at an end
		release()
		got := await(t, again, "the same name again")
		if got.err != nil {
			t.Fatalf("the same name again: %v", got.err)
		}
		n.Crictl("start", got.id)
		requirePulledByDigest(t, n.front, repository, img)
	})

	t.Run("cancelled", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		arrived, release := n.front.hold(lastLayer(t, img))
		defer release()
		pod, name := n.Pod(t), unique("impatient")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := createWith(ctx, pod, name, image)
			done <- err
		}()
		await(t, arrived, "the pull")
		cancel()
		requireRefused(t, await(t, done, "the cancelled request"), codes.Canceled)
		// The client does not wait for the server.
		awaitLog(t, n.Node, "CreateContainer within sandbox", 1, name, "failed")
		requireNoRestore(t, n.Node)
		release()
		awaitImage(t, n.Node, reference)
		if _, err := createWith(callContext(t), pod, name, image); err != nil {
			t.Fatalf("the same name again: %v", err)
		}
		requirePulledByDigest(t, n.front, repository, img)
	})

	// The kubelet's way: PullImage first, and a container that does not wait for it.
	t.Run("with PullImage", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		tag, _ := pushedImageOf(t, n.Node, rebased(t, n.archive, n.front.ref(repository+":1"), reference))
		arrived, release := n.front.hold(lastLayer(t, img))
		defer release()
		pulled, created := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := n.TryPull(tag, "", "")
			pulled <- err
		}()
		await(t, arrived, "the pull")
		pod, name := n.Pod(t), unique("eager")
		go func() {
			_, err := createWith(callContext(t), pod, name, tag)
			created <- err
		}()
		awaitLog(t, n.Node, "CreateContainer within sandbox", 1, name)
		select {
		case err := <-created:
			t.Fatalf("created before the base image was there: %v", err)
		case err := <-pulled:
			t.Fatalf("pulled before the base image was there: %v", err)
		default:
		}
		release()
		if err := errors.Join(await(t, pulled, "the pull's end"), await(t, created, "the container")); err != nil {
			t.Fatal(err)
		}
		requirePulledByDigest(t, n.front, repository, img)
	})
}

// TestPullTimeout has a registry that never answers.
func TestPullTimeout(t *testing.T) {
	t.Parallel()
	node := newPullNode(t, harness.WithRestoreConfig(`base_image_pull_timeout = "1s"`))
	n := node.sub(t)
	img, repository, reference := n.base(t)
	image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
	_, release := n.front.hold(lastLayer(t, img))
	defer release()
	pod, name := n.Pod(t), unique("patient")
	_, err := pod.TryCreate(name, image)
	requireRefused(t, err, codes.DeadlineExceeded, image, reference, "not done within 1s",
		"pull the image on this node beforehand")
	requireNoRestore(t, n.Node)
	release()
	c := pod.Run(name, image)
	requireContinues(t, c, n.counted)
}

// awaitLog waits until the daemon's log has at least count lines that contain all the words.
func awaitLog(t testing.TB, n *harness.Node, word string, count int, words ...string) {
	t.Helper()
	n = n.In(t)
	_, err := backoff.Retry(t.Context(), func() (any, error) {
		found := 0
	lines:
		for line := range strings.Lines(n.DaemonLog()) {
			for _, w := range append(words, word) {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			found++
		}
		if found < count {
			return nil, errors.New("not yet")
		}
		return nil, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)), backoff.WithMaxElapsedTime(10*time.Second))
	if err != nil {
		t.Fatalf("containerd's log has not %d lines with %q and %q", count, word, words)
	}
}

// requireNoRestore fails the test if the node holds anything of a restore, whatever
// else is under way on it.
func requireNoRestore(t testing.TB, n *harness.Node) {
	t.Helper()
	inv := n.Inventory(t)
	for _, kind := range []harness.Kind{harness.KindLease, harness.KindSnapshot} {
		for _, key := range inv.Keys(kind) {
			if strings.Contains(key, "cri-restore-") && !strings.Contains(key, n.ID()) {
				t.Errorf("%s %s is left", kind, key)
			}
		}
	}
	for _, kind := range []harness.Kind{harness.KindFile, harness.KindMount} {
		for _, key := range inv.Keys(kind) {
			if strings.Contains(key, "/io.containerd.cri.v1.restore/") {
				t.Errorf("%s %s is left", kind, key)
			}
		}
	}
}
