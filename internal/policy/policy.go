// Package policy says who may restore what: the node's configuration applied to
// a request.
package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Config is the operator's word, from the plugin's configuration.
type Config struct {
	// AllowArchives admits absolute paths of checkpoint archives as image names.
	AllowArchives bool
	// ArchiveDirs are directories below which they are admitted, if AllowArchives does not admit all.
	ArchiveDirs []string
	// Images are patterns of image names that may be restored, see [Pattern].
	Images []string
	// BaseImages are patterns of image names that may be the base image of a checkpoint. Nil stands for all.
	BaseImages []string
	// Namespaces are patterns of pod namespaces in which may be restored.
	Namespaces []string
	// PodAnnotations are the names, after [AnnotationPrefix], of the pod annotations that are heard.
	PodAnnotations []string
	// CheckpointImages admits image names as locations of new checkpoints.
	CheckpointImages bool
	// Compression of new checkpoints, if the pod does not say.
	Compression Compression
	// TCP is what becomes of established connections if the pod does not say.
	TCP TCP
	// Lazy is whether memory arrives after the processes run if the pod does not say.
	Lazy Lazy
}

// Policy decides on requests. Its zero value admits nothing.
type Policy struct {
	archives   bool
	dirs       []string
	images     []Pattern
	bases      []Pattern
	namespaces []Pattern
	heard      []string
	tcp        TCP
	lazy       Lazy

	checkpointImages bool
	compression      Compression
}

// New validates the configuration. The error, of class
// errdefs.ErrInvalidArgument, names the key and the pattern.
func New(c Config) (*Policy, error) {
	images, ierr := patterns("allowed_images", c.Images)
	namespaces, nerr := patterns("allowed_namespaces", c.Namespaces)
	if c.BaseImages == nil {
		c.BaseImages = []string{"**"}
	}
	bases, berr := patterns("allowed_base_images", c.BaseImages)
	if err := errors.Join(checkDirs(c.ArchiveDirs), ierr, berr, nerr, checkHeard(c.PodAnnotations),
		checkTCP("tcp_connections", c.TCP), checkLazy("lazy_pages", c.Lazy),
		checkCompression("checkpoint_compression", c.Compression)); err != nil {
		return nil, err
	}
	return &Policy{archives: c.AllowArchives, dirs: c.ArchiveDirs, images: images, bases: bases, namespaces: namespaces,
		heard: c.PodAnnotations, tcp: c.TCP, lazy: c.Lazy,
		checkpointImages: c.CheckpointImages, compression: c.Compression}, nil
}

func patterns(key string, values []string) ([]Pattern, error) {
	out := make([]Pattern, 0, len(values))
	for _, v := range values {
		p, err := NewPattern(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Namespace admits the namespace of the pod in which is to be restored. The
// error is of class errdefs.ErrPermissionDenied. A pod without one, which the
// kubelet never makes, counts as in "default".
func (p *Policy) Namespace(namespace string) error {
	if namespace == "" {
		namespace = "default"
	}
	if matches(p.namespaces, namespace) {
		return nil
	}
	return fmt.Errorf("pod namespace %q: restoring checkpoints is not allowed here: "+
		"add the namespace to allowed_namespaces on this node: %w", namespace, errdefs.ErrPermissionDenied)
}

// Image admits a checkpoint image. One of the names by which the node knows it
// must match: its ID, its tags or its digests. What the user calls it is only for the
// error, which is of class errdefs.ErrPermissionDenied.
func (p *Policy) Image(called string, names ...string) error {
	for _, name := range names {
		if admits(p.images, name) {
			return nil
		}
	}
	return fmt.Errorf("checkpoint image %q: restoring it is not allowed on this node: "+
		"add its name to allowed_images: %w", called, errdefs.ErrPermissionDenied)
}

// BaseImage admits the base image of a checkpoint, as Image does a checkpoint image.
func (p *Policy) BaseImage(called string, names ...string) error {
	for _, name := range names {
		if admits(p.bases, name) {
			return nil
		}
	}
	return fmt.Errorf("base image %q: a checkpoint may not use it on this node: "+
		"add its name to allowed_base_images: %w", called, errdefs.ErrPermissionDenied)
}

func admits(ps []Pattern, name string) bool {
	if _, err := digest.Parse(name); err == nil {
		// Every image has an ID, and it says nothing of where the image is from: "*" means names.
		return slices.ContainsFunc(ps, func(pattern Pattern) bool { return pattern.matchID(name) })
	}
	if matches(ps, name) {
		return true
	}
	named, err := reference.ParseNormalizedNamed(name)
	return err == nil && matches(ps, named.String())
}

func matches(ps []Pattern, s string) bool {
	for _, p := range ps {
		if p.Match(s) {
			return true
		}
	}
	return false
}
