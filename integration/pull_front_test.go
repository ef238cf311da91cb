package integration

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// front is a reverse proxy in front of a registry, with a host of its own. It keeps
// what the harness' registry does not: the headers of the requests, the moment at
// which one arrives, and answers that are wrong.
type front struct {
	registry *harness.Registry
	server   *httptest.Server

	mu       sync.Mutex
	requests []frontRequest
	gates    map[string]*gate
	answers  map[string]answer
}

type frontRequest struct {
	method, path, authorization string
}

// gate holds GETs.
type gate struct {
	arrived chan struct{} // has one element for each request that waits
	open    chan struct{}
}

type answer struct {
	status    int
	mediaType string
	body      []byte
	length    int // that is announced, if it is not the body's
}

func newFront(t testing.TB, r *harness.Registry) *front {
	t.Helper()
	target, err := url.Parse("http://" + r.Host())
	if err != nil {
		t.Fatal(err)
	}
	f := &front{registry: r, gates: map[string]*gate{}, answers: map[string]answer{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if wrong, ok := f.note(req); ok {
			w.Header().Set("Content-Type", wrong.mediaType)
			if wrong.length > 0 {
				w.Header().Set("Content-Length", strconv.Itoa(wrong.length))
			}
			w.WriteHeader(wrong.status)
			_, _ = w.Write(wrong.body)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

// note keeps a request, and holds it while there is a gate for it.
func (f *front) note(req *http.Request) (answer, bool) {
	f.mu.Lock()
	f.requests = append(f.requests, frontRequest{req.Method, req.URL.Path, req.Header.Get("Authorization")})
	var waits []*gate
	for part, g := range f.gates {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, part) {
			waits = append(waits, g)
		}
	}
	var found answer
	var ok bool
	for part, a := range f.answers {
		if strings.Contains(req.URL.Path, part) {
			found, ok = a, true
		}
	}
	f.mu.Unlock()
	for _, g := range waits {
		g.arrived <- struct{}{}
		select {
		case <-g.open:
		case <-req.Context().Done():
		}
	}
	return found, ok
}

func (f *front) host() string { return strings.TrimPrefix(f.server.URL, "http://") }

// ref is the reference of a repository, with tag or digest, by this host.
func (f *front) ref(repository string) string { return f.host() + "/" + repository }

// hold makes GETs of paths that contain part wait. The channel tells of each that
// has arrived.
func (f *front) hold(part string) (arrived <-chan struct{}, release func()) {
	g := &gate{arrived: make(chan struct{}, 100), open: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gates[part] = g
	return g.arrived, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.gates, part)
		close(g.open)
	})
}

// answer gives the same answer to every request for paths that contain part.
func (f *front) answer(part string, status int, mediaType string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[part] = answer{status: status, mediaType: mediaType, body: body}
}

// truncate answers with less than it announces, and breaks the connection.
func (f *front) truncate(part, mediaType string, body []byte, length int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[part] = answer{status: http.StatusOK, mediaType: mediaType, body: body, length: length}
}

// honest ends answer for the same part.
func (f *front) honest(part string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.answers, part)
}

// got returns the requests so far whose path contains part.
func (f *front) got(part string) []frontRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []frontRequest
	for _, r := range f.requests {
		if strings.Contains(r.path, part) {
			found = append(found, r)
		}
	}
	return found
}

// gets counts the GETs so far whose path contains part.
func (f *front) gets(part string) int {
	count := 0
	for _, r := range f.got(part) {
		if r.method == http.MethodGet {
			count++
		}
	}
	return count
}

// await fails the test unless the channel has something to say soon.
func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// callContext is the context of one call, also in a clean-up.
func callContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// createWith is Pod.TryCreate with a context of the caller's.
func createWith(ctx context.Context, pod *harness.Pod, name, image string) (string, error) {
	resp, err := pod.Node().Runtime().CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: pod.ID, SandboxConfig: pod.Config,
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name},
			Image:    &runtime.ImageSpec{Image: image, UserSpecifiedImage: image},
			LogPath:  name + ".log",
			Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: pod.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			}},
		},
	})
	return resp.GetContainerId(), err
}
