package harness

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// pushHeader marks the harness's own requests: they need no credentials, wait for
// nothing and are not counted.
const pushHeader = "X-Cri-Restore-Harness"

// marked sets the header of the harness's own requests.
type marked struct{ base http.RoundTripper }

func (m marked) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(pushHeader, "1")
	return m.base.RoundTrip(req)
}

// RequireAuth makes the registry demand basic authentication from now on; an
// empty user turns it off.
func (r *Registry) RequireAuth(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user, r.pass = user, password
}

// Delay makes every GET whose path contains part (a digest, a repository) wait.
func (r *Registry) Delay(part string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delays[part] = d
}

// Hold makes every GET whose path contains part hang until the returned function
// is called or the client goes away.
func (r *Registry) Hold(part string) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gate := make(chan struct{})
	r.held[part] = gate
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.held[part] == gate {
			delete(r.held, part)
			close(gate)
		}
	})
}

// ReleaseAll ends every Hold.
func (r *Registry) ReleaseAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for part, gate := range r.held {
		delete(r.held, part)
		close(gate)
	}
}

// Requests returns the nodes' requests so far whose path contains part, in the
// order of their answers.
func (r *Registry) Requests(part string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Request
	for _, req := range r.requests {
		if strings.Contains(req.Path, part) {
			found = append(found, req)
		}
	}
	return found
}

// Downloads counts successful GETs of blobs and manifests whose path contains
// part: a test that asserts "pulled once" gives a layer's digest.
func (r *Registry) Downloads(part string) int {
	count := 0
	for _, req := range r.Requests(part) {
		if req.Method == http.MethodGet && (req.Status == http.StatusOK || req.Status == http.StatusPartialContent) {
			count++
		}
	}
	return count
}

// ResetRequests forgets the requests so far.
func (r *Registry) ResetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

func (r *Registry) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get(pushHeader) != "" {
			next.ServeHTTP(w, req)
			return
		}
		rec := &recorder{ResponseWriter: w, note: func(status int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.requests = append(r.requests, Request{Method: req.Method, Path: req.URL.Path, Status: status})
		}}
		if !r.allowed(req) {
			rec.Header().Set("WWW-Authenticate", `Basic realm="cri-restore"`)
			http.Error(rec, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		if req.Method == http.MethodGet {
			if err := r.wait(req); err != nil {
				rec.WriteHeader(http.StatusServiceUnavailable) // the client is gone
				return
			}
		}
		next.ServeHTTP(rec, req)
	})
}

func (r *Registry) allowed(req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.user == "" {
		return true
	}
	user, pass, ok := req.BasicAuth()
	return ok && user == r.user && pass == r.pass
}

// wait applies Hold and Delay to a request.
func (r *Registry) wait(req *http.Request) error {
	var gates []chan struct{}
	var delay time.Duration
	r.mu.Lock()
	for part, gate := range r.held {
		if strings.Contains(req.URL.Path, part) {
			gates = append(gates, gate)
		}
	}
	for part, d := range r.delays {
		if strings.Contains(req.URL.Path, part) {
			delay = max(delay, d)
		}
	}
	r.mu.Unlock()
	for _, gate := range gates {
		select {
		case <-gate:
		case <-req.Context().Done():
			return fmt.Errorf("%s: %w", req.URL.Path, req.Context().Err())
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-req.Context().Done():
			return req.Context().Err()
		}
	}
	return nil
}

// recorder notes a request when its answer begins: once the client has the answer
// a test may ask for the request.
type recorder struct {
	http.ResponseWriter
	note  func(status int)
	noted bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.noted {
		r.noted = true
		r.note(status)
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if !r.noted {
		r.noted = true
		r.note(http.StatusOK)
	}
	return r.ResponseWriter.Write(p)
}
