package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.opentelemetry.io/otel/trace"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// answerTime is for the clean-up of a request that has waited in vain, and for its answer.
const answerTime = 2 * time.Second

// pull returns the ID of the image that ref names when it has been pulled,
// verified and unpacked.
func (b *Bases) pull(ctx context.Context, ref baseReference, r Request) (string, error) {
	done := b.pulls.DoChan(pullKey(ref, r), func() (id any, err error) {
		ctx := detach(ctx)
		defer recovery.Into(ctx, &err, "pull base image") // out of which singleflight makes one that nobody can recover from
		if b.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, b.timeout)
			defer cancel()
		}
		return b.pullOnce(ctx, ref, r)
	})
	wait, cancel := beforeDeadline(ctx)
	defer cancel()
	select {
	case res := <-done:
		id, _ := res.Val.(string)
		return id, res.Err
	case <-wait.Done():
		return "", fmt.Errorf("base image %s is still being pulled; retry: the pull goes on: %w", ref.text, wait.Err())
	}
}

// beforeDeadline returns a context that ends some time before its parent's deadline.
// A gRPC client has the same deadline by its own clock and does not wait for an answer
// after it: it would only know that its time is over, not that it should try again.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(answerTime, time.Until(deadline)/4)))
}

// pullOnce runs once for all who wait.
func (b *Bases) pullOnce(ctx context.Context, ref baseReference, r Request) (string, error) {
	// Another pull may have ended between the caller's look and this one.
	if id, err := b.local(ctx, ref); err == nil || !errdefs.IsNotFound(err) {
		return id, err
	}
	req := &runtime.PullImageRequest{
		Image:         &runtime.ImageSpec{Image: ref.text, UserSpecifiedImage: ref.text, RuntimeHandler: r.RuntimeHandler},
		Auth:          r.Auth,
		SandboxConfig: r.SandboxConfig,
	}
	if req.SandboxConfig == nil {
		// Without one containerd does not look at the handler.
		req.SandboxConfig = &runtime.PodSandboxConfig{}
	}
	resp, err := b.inner.PullImage(ctx, req)
	if err != nil {
		err = pullError(ref, r.Auth != nil, err)
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %s, the limit of this node: %w", b.timeout, err)
		}
		log.G(ctx).WithError(err).WithField("image", ref.text).Warn("base image of a checkpoint is not available")
		return "", err
	}
	// What has come is what the digest says, or nothing is restored from it.
	id, err := b.local(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("pulled base image %s, got image %s, but: %s: %w", ref.text, resp.GetImageRef(), err.Error(),
			errdefs.ErrFailedPrecondition)
	}
	if id != resp.GetImageRef() {
		return "", fmt.Errorf("pulled base image %s, which is image %s, but got image %s; check the registry and its "+
			"mirrors: %w",
			ref.text, id, resp.GetImageRef(), errdefs.ErrFailedPrecondition)
	}
	return id, nil
}

// detach returns a context that does not end with its parent and keeps what a
// pull needs of it: the namespace, the logger, the trace. The lease stays behind:
// it is the caller's, who may delete it while the pull goes on.
func detach(parent context.Context) context.Context {
	ctx := log.WithLogger(context.Background(), log.G(parent))
	if ns, ok := namespaces.Namespace(parent); ok {
		ctx = namespaces.WithNamespace(ctx, ns)
	}
	return trace.ContextWithSpanContext(ctx, trace.SpanContextFromContext(parent))
}

// pullKey is equal for those who may share a pull. Who has no credentials, or
// others, must not get an image by those of somebody else; who needs it in
// another snapshotter must not find it unpacked elsewhere.
func pullKey(ref baseReference, r Request) string {
	auth, _ := json.Marshal(r.Auth) // strings only; null for none
	sum := sha256.Sum256(auth)
	return strings.Join([]string{
		ref.text,
		r.RuntimeHandler,
		r.SandboxConfig.GetAnnotations()[upstream.AnnotationRuntimeHandler],
		hex.EncodeToString(sum[:]),
	}, "\x00")
}

// pullError names the image and the remedy and keeps the class of the error. It
// gives one to errors of containerd's resolver that have none.
func pullError(ref baseReference, credentials bool, err error) error {
	var (
		status remoteerrors.ErrUnexpectedStatus
		remedy = "see that this node reaches the registry, or pull the image on this node beforehand"
		class  error
	)
	unauthorized := errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsUnauthorized(err) ||
		errdefs.IsPermissionDenied(err)
	if errors.As(err, &status) {
		unauthorized = unauthorized || status.StatusCode == http.StatusUnauthorized ||
			status.StatusCode == http.StatusForbidden
	}
	switch {
	case unauthorized:
		class = errdefs.ErrUnauthenticated
		remedy = "pull it on this node beforehand, or put it where the checkpoint image's pull secret is valid"
		if !credentials {
			remedy = "no credentials of a pull secret apply to it: " + remedy
		}
	case errdefs.IsNotFound(err):
		remedy = "push it to that repository again, or import it on this node"
	case errdefs.IsFailedPrecondition(err): // unexpected commit digest, or size
		remedy = "the registry has something else for this digest: check it and its mirrors, or import the image on this node"
	default:
		class = errdefs.ErrUnavailable
	}
	if class == nil || !errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown) {
		return fmt.Errorf("pull base image %s: %w; %s", ref.text, redacted{err}, remedy)
	}
	return fmt.Errorf("pull base image %s: %w; %s: %w", ref.text, redacted{err}, remedy, class)
}

// redacted hides the queries of URLs in the text of an error, which may hold
// signatures and tokens: containerd does so for PullImage, whose errors these
// are, but not for CreateContainer, which is what they may come out of. It also
// puts joined errors on one line.
type redacted struct{ error }

var query = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)

func (e redacted) Error() string {
	return strings.ReplaceAll(query.ReplaceAllString(e.error.Error(), "$1?[REDACTED]"), "\n", "; ")
}

func (e redacted) Unwrap() error { return e.error }
