package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// logBuffer is written by the server while the test reads it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the command until the test ends and returns its address.
func start(t *testing.T, args ...string) (string, *logBuffer) {
	t.Helper()
	portFile := filepath.Join(t.TempDir(), "port")
	ctx, cancel := context.WithCancel(context.Background())
	log := &logBuffer{}
	cmd := command()
	cmd.ErrWriter = log
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run(ctx, append([]string{"registry", "--port-file", portFile}, args...)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("registry: %v", err)
		}
	})
	// The file is the command's interface to scripts, which can only look for it.
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for {
		if address, err := os.ReadFile(portFile); err == nil {
			return strings.TrimSpace(string(address)), log
		}
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- nil
			t.Fatalf("registry: ended before it served: %v", err)
		case <-deadline:
			t.Fatal("registry: no port file after a minute")
		}
	}
}

func imageLayout(t *testing.T, images ...v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		if err := path.AppendImage(image); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func randomImage(t *testing.T) (v1.Image, string) {
	t.Helper()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return image, digest.String()
}

func pull(t *testing.T, ref string, auth authn.Authenticator) (v1.Image, error) {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return remote.Image(parsed, remote.WithContext(t.Context()), remote.WithAuth(auth))
}

func TestServesLayouts(t *testing.T) {
	one, oneDigest := randomImage(t)
	two, twoDigest := randomImage(t)
	address, log := start(t, "--load", imageLayout(t, one)+"=busybox:1", "--load", imageLayout(t, two)+"=team/app:v2")
	for ref, want := range map[string]string{"busybox:1": oneDigest, "team/app:v2": twoDigest,
		"busybox@" + oneDigest: oneDigest} {
		image, err := pull(t, address+"/"+ref, authn.Anonymous)
		if err != nil {
			t.Errorf("pull %s: %v", ref, err)
			continue
		}
		if err := validate.Image(image); err != nil {
			t.Errorf("%s: not a valid image: %v", ref, err)
		}
		if got, err := image.Digest(); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v, want %s", ref, got, err, want)
		}
	}
	if want := "path=/v2/busybox/manifests/1 status=200"; !strings.Contains(log.String(), want) {
		t.Errorf("log has no %q:\n%s", want, log)
	}
}

func TestServesNestedIndex(t *testing.T) {
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := imageLayout(t)
	if err := layout.Path(dir).AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	address, _ := start(t, "--load", dir+"=multi:1")
	ref, err := name.ParseReference(address+"/multi:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Errorf("not a valid index: %v", err)
	}
}

func TestRequiresAuth(t *testing.T) {
	image, _ := randomImage(t)
	address, _ := start(t, "--require-auth", "user:pass:word,too", "--load", imageLayout(t, image)+"=private:1")
	for auth, allowed := range map[authn.Authenticator]bool{
		authn.Anonymous: false,
		&authn.Basic{Username: "user", Password: "wrong"}:         false,
		&authn.Basic{Username: "user", Password: "pass:word,too"}: true,
	} {
		_, err := pull(t, address+"/private:1", auth)
		var refused *transport.Error
		if allowed && err != nil {
			t.Errorf("%+v: %v", auth, err)
		} else if !allowed && (!errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized) {
			t.Errorf("%+v: got %v, want status 401", auth, err)
		}
	}
}

func TestDelaysBlobs(t *testing.T) {
	const delay = 300 * time.Millisecond
	image, digest := randomImage(t)
	address, _ := start(t, "--delay", delay.String(), "--load", imageLayout(t, image)+"=slow:1")
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for path, slow := range map[string]bool{"/v2/slow/manifests/" + digest: false,
		"/v2/slow/blobs/" + config.String(): true} {
		begin := time.Now()
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if took := time.Since(begin); response.StatusCode != http.StatusOK || (took >= delay) != slow {
			t.Errorf("%s: status %d after %s, want 200, slow=%t", path, response.StatusCode, took, slow)
		}
	}
}

func TestRefusesArguments(t *testing.T) {
	image, _ := randomImage(t)
	other, _ := randomImage(t)
	for want, args := range map[string][]string{
		"want DIR=NAME:TAG":           {"--load", "nothing"},
		"is no OCI image layout":      {"--load", t.TempDir() + "=a:1"},
		"has 2 images":                {"--load", imageLayout(t, image, other) + "=a:1"},
		"repository can only contain": {"--load", imageLayout(t, image) + "=A:1"},
		"want USER:PASSWORD":          {"--require-auth", "user"},
		"--listen 127.0.0.1:x":        {"--listen", "127.0.0.1:x"},
		"--port-file":                 {"--port-file", "/nonexistent/port"},
		`unexpected argument "extra"`: {"extra"},
	} {
		cmd := command()
		cmd.Writer, cmd.ErrWriter = &logBuffer{}, &logBuffer{}
		if err := cmd.Run(t.Context(), append([]string{"registry"}, args...)); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", args, err, want)
		}
	}
}
