package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// askTimeout bounds the question what a tag means: a few small documents.
const askTimeout = time.Minute

// byName finds out by which digest an image can be pulled of which a checkpoint knows the ID and a name: Podman records
// no more. It asks the registry what the tag means now, which has to be that image. Nothing is pulled, and no tag is
// made or moved here (CVE-2026-50195): the CRI's own pull would do both with a tag. So the question is put by
// containerd's resolver, with the node's registry configuration as the CRI's pull has it (containerd:
// internal/cri/server/images, registryHosts).
//
// Errors are those of [Bases.Ensure].
func (b *Bases) byName(ctx context.Context, ref baseReference, r Request) (baseReference, error) {
	named, err := reference.ParseDockerRef(r.Base.Name)
	// Without such a directory the node has the deprecated registry.mirrors (containerd: plugins/cri/images sets a default
	// otherwise), which only the CRI's own pull follows: the registry itself must not be asked then.
	if err != nil || b.HostDirs == nil || b.HostDirs() == "" {
		return baseReference{}, unknownID(ref, r.Base.Name)
	}
	tagged := baseReference{text: named.String()}
	if b.Admit != nil {
		if err := b.Admit(r.Base.Name, tagged.text); err != nil {
			return baseReference{}, err
		}
	}
	if b.NeverPull {
		return baseReference{}, neverPulled(ref.text)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	manifest, id, err := b.ask(ctx, tagged.text, r.Auth)
	if err != nil {
		return baseReference{}, fmt.Errorf("base image %s is not on this node: %w", ref.text,
			pullError(tagged, r.Auth != nil, err))
	}
	if id != ref.digest {
		return baseReference{}, fmt.Errorf("base image %s is not on this node, and %s is another one now, %s: "+
			"bring the old one to this node, or push it again: %w", ref.text, tagged.text, id, errdefs.ErrFailedPrecondition)
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(named), manifest)
	if err != nil {
		return baseReference{}, fmt.Errorf("base image %q of the checkpoint: %w: %w", tagged.text, err,
			errdefs.ErrInvalidArgument)
	}
	return baseReference{text: canonical.String(), digest: manifest}, nil
}

// ask returns the digests of manifest and config that a name has in its registry for this platform.
func (b *Bases) ask(ctx context.Context, name string, auth *runtime.AuthConfig) (manifest, id digest.Digest,
	err error) {
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:     hostDir(filepath.SplitList(b.HostDirs())),
		Credentials: func(host string) (string, string, error) { return credentials(auth, host) },
	})})
	name, desc, err := resolver.Resolve(ctx, name)
	if err != nil {
		return "", "", err
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return "", "", err
	}
	documents := &fetched{fetcher: fetcher, configs: map[digest.Digest]digest.Digest{}}
	found, err := images.Manifest(ctx, documents, desc, b.platform)
	if err != nil {
		return "", "", err
	}
	manifest, ok := documents.configs[found.Config.Digest]
	if err := found.Config.Digest.Validate(); err != nil || !ok {
		return "", "", fmt.Errorf("%s is no image manifest: its config has digest %q: %w", desc.Digest, found.Config.Digest,
			errdefs.ErrFailedPrecondition)
	}
	return manifest, found.Config.Digest, nil
}

// hostDir finds the directory with the configuration of a registry in one of several.
func hostDir(roots []string) func(string) (string, error) {
	return func(host string) (string, error) {
		for _, root := range roots {
			dir, err := config.HostDirFromRoot(root)(host)
			if err != nil && !errdefs.IsNotFound(err) || dir != "" {
				return dir, err
			}
		}
		return "", nil
	}
}

// credentials returns user and secret for a host as containerd's CRI takes them from a pull secret (containerd:
// internal/cri/server/images, ParseAuth).
func credentials(auth *runtime.AuthConfig, host string) (user, secret string, err error) {
	if server := auth.GetServerAddress(); server != "" {
		u, err := url.Parse(server)
		if err != nil {
			return "", "", fmt.Errorf("server address of the credentials: %w", err)
		}
		if u.Host != host {
			return "", "", nil
		}
	}
	switch {
	case auth.GetUsername() != "":
		return auth.GetUsername(), auth.GetPassword(), nil
	case auth.GetIdentityToken() != "":
		return "", auth.GetIdentityToken(), nil
	case auth.GetAuth() != "":
		decoded, err := base64.StdEncoding.DecodeString(auth.GetAuth())
		user, secret, ok := strings.Cut(strings.TrimRight(string(decoded), "\x00"), ":")
		if err != nil || !ok {
			return "", "", fmt.Errorf("the credentials are not user and password in base64: %w", errdefs.ErrInvalidArgument)
		}
		return user, secret, nil
	}
	return "", "", nil
}

// fetched are documents of a registry as a content provider. Each is bounded and has the digest that it was asked for.
type fetched struct {
	fetcher remotes.Fetcher
	configs map[digest.Digest]digest.Digest // the manifests that were read, by their config
}

func (f *fetched) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if desc.Size > maxDocument {
		return nil, fmt.Errorf("%s %s has %d bytes, more than %d: %w", desc.MediaType, desc.Digest, desc.Size,
			int64(maxDocument), errdefs.ErrOutOfRange)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", desc.MediaType, err, errdefs.ErrFailedPrecondition)
	}
	// The fetcher would ask there first, wherever it is (core/remotes/docker/fetcher.go): a registry could have this node
	// ask a host of its choice.
	desc.URLs = nil
	r, err := f.fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("unexpected digest %s, want %s: %w", got, desc.Digest, errdefs.ErrFailedPrecondition)
	}
	var manifest ocispec.Manifest
	if images.IsManifestType(desc.MediaType) && json.Unmarshal(data, &manifest) == nil {
		f.configs[manifest.Config.Digest] = desc.Digest
	}
	return &document{bytes.NewReader(data)}, nil
}

// document is one that was read.
type document struct{ *bytes.Reader }

func (*document) Close() error { return nil }
