package main

import (
	"crypto/subtle"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

type options struct {
	user, password string // no user: no authentication
	delay          time.Duration
	log            io.Writer // one line per request
}

// handler is the registry with what the options put in front of it.
func handler(opts options) http.Handler {
	logger := slog.New(slog.NewTextHandler(opts.log, nil))
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0))) // we log, with the status
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		switch {
		case !opts.allows(req):
			recorder.Header().Set("Content-Type", "application/json")
			recorder.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			recorder.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(recorder, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`+"\n")
		case !opts.wait(req):
			recorder.status = 0 // the client is gone
		default:
			images.ServeHTTP(recorder, req)
		}
		logger.Info("request", "method", req.Method, "path", req.URL.Path, "status", recorder.status,
			"from", req.RemoteAddr, "took", time.Since(start).Round(time.Millisecond))
	})
}

func (o options) allows(req *http.Request) bool {
	if o.user == "" {
		return true
	}
	user, password, _ := req.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(o.user+":"+o.password)) == 1
}

// wait delays downloads of blobs; it reports false when the client goes away meanwhile.
func (o options) wait(req *http.Request) bool {
	if o.delay <= 0 || req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
		return true
	}
	timer := time.NewTimer(o.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-req.Context().Done():
		return false
	}
}

// statusRecorder remembers the status of an answer for the log.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
