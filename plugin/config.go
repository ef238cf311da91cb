package plugin

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/policy"
)

// Config is the plugin's table in containerd's configuration,
// [plugins.'io.containerd.cri.v1.restore'].
type Config struct {
	// Enable turns restoring on. If false, containerd is as without the plugin.
	// Default true.
	Enable bool `toml:"enable" json:"enable"`
	// AllowArchives admits absolute paths of checkpoint archives as image names, for crictl and for whoever else talks to
	// the CRI socket; the kubelet never sends one. It is true, for any archive on the node, or a list of the directories
	// below which archives are admitted. Default false.
	AllowArchives any `toml:"allow_archives" json:"allowArchives"`
	// AllowedImages are patterns of the checkpoint images that may be restored.
	// A pattern matches a whole name, element by element between slashes; "**" at its
	// end matches all that follows. Default ["**"].
	AllowedImages []string `toml:"allowed_images" json:"allowedImages"`
	// AllowedBaseImages are patterns of the images that a checkpoint may name as its base image,
	// whether they are on the node or have to be pulled. Default ["**"].
	AllowedBaseImages []string `toml:"allowed_base_images" json:"allowedBaseImages"`
	// AllowedNamespaces are patterns of the pod namespaces in which may be
	// restored. Default ["*"].
	AllowedNamespaces []string `toml:"allowed_namespaces" json:"allowedNamespaces"`
	// PullBaseImages lets containerd pull the base image that a checkpoint names, with
	// the credentials of the checkpoint image's pull or of the node. If false, it has to be on the node. Default true.
	PullBaseImages bool `toml:"pull_base_images" json:"pullBaseImages"`
	// Verification is what happens to a checkpoint that would give a container more
	// than its pod was granted: "strict" refuses it, "audit" restores it, and logs and counts what strict
	// would refuse. Default "strict".
	Verification string `toml:"verification" json:"verification"`
	// VerificationTimeout bounds the verification of a checkpoint, which ends with the request in any case. Default "10s".
	VerificationTimeout string `toml:"verification_timeout" json:"verificationTimeout"`
	// TCPConnections is what becomes of TCP connections that were established: "refuse" the checkpoint, "close" them,
	// restore the "local" ones, of which both ends are in the container, and close the others, or "restore" all of them
	// with their addresses. Default "local".
	TCPConnections string `toml:"tcp_connections" json:"tcpConnections"`
	// DisableMPTCP turns Multipath TCP off in the network of every new pod, unless the pod asks for the sysctl
	// net.mptcp.enabled itself: CRIU cannot dump its sockets, and servers written in Go listen with it. Default true.
	DisableMPTCP bool `toml:"disable_mptcp" json:"disableMPTCP"`
	// LazyPages is whether processes run before all of their memory is there, which a page server
	// then supplies: "off", "on", or "auto" for checkpoints of 64 MiB or more. Default "auto".
	LazyPages string `toml:"lazy_pages" json:"lazyPages"`
	// PodAnnotations are the names, after "org.criu.restore/", of the pod annotations that are heard on this
	// node. There are "tcp-connections", "lazy-pages", "checkpoint-compression", "on-failure", "before-checkpoint",
	// "after-checkpoint" and "after-restore". Default none.
	PodAnnotations []string `toml:"pod_annotations" json:"podAnnotations"`
	// CommandTimeout bounds each command of a pod's annotations, in whole seconds. Default "10s".
	CommandTimeout string `toml:"command_timeout" json:"commandTimeout"`
	// AllowCheckpointImages admits "oci-image:NAME" as the location of a new checkpoint, which then becomes an
	// image in containerd's image store instead of an archive. Default false.
	AllowCheckpointImages bool `toml:"allow_checkpoint_images" json:"allowCheckpointImages"`
	// CheckpointCompression of new checkpoints, archives and layers of images, is "none" or "zstd", which is
	// smaller and slower. Default "none".
	CheckpointCompression string `toml:"checkpoint_compression" json:"checkpointCompression"`
	// BaseImagePullTimeout bounds the pull of a base image, which goes on when the
	// request that began it has ended. Default "30m".
	BaseImagePullTimeout string `toml:"base_image_pull_timeout" json:"baseImagePullTimeout"`
	// CRIUConfig is the node's CRIU configuration file for runc; a restored container
	// gets its options first and the plugin's after them. Empty: none.
	// Default "/etc/criu/runc.conf", which runc uses for other containers.
	CRIUConfig string `toml:"criu_config" json:"criuConfig"`
	// MaxConcurrentRestores bounds how many restores work at a time, of creates and starts together; the others wait.
	// 0: any number. Negative: twice the number of processors. Default -1.
	MaxConcurrentRestores int `toml:"max_concurrent_restores" json:"maxConcurrentRestores"`
	// FailedLogDir is where CRIU's whole log of a failed restore is kept. Empty: it is not.
	// Default "failed" in the plugin's root directory.
	FailedLogDir string `toml:"failed_log_dir" json:"failedLogDir"`
	// FailedLogs is how many of those logs are kept. Default 20.
	FailedLogs int `toml:"failed_logs" json:"failedLogs"`
	// MaxMetadataSize bounds each metadata file of a checkpoint, in bytes.
	MaxMetadataSize int64 `toml:"max_metadata_size" json:"maxMetadataSize"`
	// MaxLogSize bounds the container log in a checkpoint, in bytes.
	MaxLogSize int64 `toml:"max_log_size" json:"maxLogSize"`
	// MaxDiffSize bounds the changes of the root file system, decompressed, in bytes.
	MaxDiffSize int64 `toml:"max_diff_size" json:"maxDiffSize"`
	// MaxArchiveSize bounds a checkpoint archive, decompressed, in bytes.
	MaxArchiveSize int64 `toml:"max_archive_size" json:"maxArchiveSize"`
	// MaxEntries bounds the files of a checkpoint, and those of its root file system's changes.
	MaxEntries int `toml:"max_entries" json:"maxEntries"`
}

// DefaultConfig returns the configuration of a node that says nothing.
func DefaultConfig() Config {
	l := checkpoint.DefaultLimits()
	return Config{
		Enable:                true,
		AllowArchives:         false,
		AllowedImages:         []string{"**"},
		AllowedBaseImages:     []string{"**"},
		AllowedNamespaces:     []string{"*"},
		PullBaseImages:        true,
		Verification:          strict,
		VerificationTimeout:   "10s",
		TCPConnections:        string(policy.LocalTCP),
		DisableMPTCP:          true,
		LazyPages:             string(policy.LazyAuto),
		PodAnnotations:        []string{},
		CommandTimeout:        "10s",
		CheckpointCompression: string(policy.Uncompressed),
		BaseImagePullTimeout:  "30m",
		CRIUConfig:            "/etc/criu/runc.conf",
		MaxConcurrentRestores: -1,
		FailedLogDir:          "failed",
		FailedLogs:            20,
		MaxMetadataSize:       l.MetadataBytes,
		MaxLogSize:            l.LogBytes,
		MaxDiffSize:           l.DiffBytes,
		MaxArchiveSize:        l.ArchiveBytes,
		MaxEntries:            l.Entries,
	}
}

// The values of Verification.
const strict, audit = "strict", "audit"

// settings are the validated configuration.
type settings struct {
	policy      *policy.Policy
	limits      checkpoint.Limits
	pullTimeout time.Duration
	verifying   time.Duration
	command     time.Duration
	failedLogs  string
}

// validate reports every key that cannot be used, and what it may be.
func (c *Config) validate(root string) (*settings, error) {
	var (
		s    = &settings{failedLogs: c.FailedLogDir}
		errs []error
		err  error
	)
	archives, dirs, err := c.archives()
	if err != nil {
		errs = append(errs, err)
	}
	if s.policy, err = policy.New(policy.Config{AllowArchives: archives, ArchiveDirs: dirs, Images: c.AllowedImages,
		BaseImages: append([]string{}, c.AllowedBaseImages...), Namespaces: c.AllowedNamespaces,
		PodAnnotations: c.PodAnnotations, TCP: policy.TCP(c.TCPConnections), Lazy: policy.Lazy(c.LazyPages),
		CheckpointImages: c.AllowCheckpointImages, Compression: policy.Compression(c.CheckpointCompression)}); err != nil {
		errs = append(errs, err)
	}
	if c.Verification != strict && c.Verification != audit {
		errs = append(errs, fmt.Errorf("verification: %q is none of %q, %q", c.Verification, strict, audit))
	}
	if s.verifying, err = time.ParseDuration(c.VerificationTimeout); err != nil || s.verifying <= 0 {
		errs = append(errs, fmt.Errorf("verification_timeout: %q is no positive duration such as \"10s\"",
			c.VerificationTimeout))
	}
	if s.command, err = time.ParseDuration(c.CommandTimeout); err != nil || s.command < time.Second ||
		s.command%time.Second != 0 {
		errs = append(errs, fmt.Errorf("command_timeout: %q is no duration of whole seconds such as \"10s\"",
			c.CommandTimeout))
	}
	if s.pullTimeout, err = time.ParseDuration(c.BaseImagePullTimeout); err != nil || s.pullTimeout <= 0 {
		errs = append(errs, fmt.Errorf("base_image_pull_timeout: %q is no positive duration such as \"30m\"",
			c.BaseImagePullTimeout))
	}
	if c.CRIUConfig != "" && !filepath.IsAbs(c.CRIUConfig) {
		errs = append(errs, fmt.Errorf("criu_config: %q is no absolute path", c.CRIUConfig))
	}
	if s.failedLogs != "" && !filepath.IsAbs(s.failedLogs) {
		if !filepath.IsLocal(s.failedLogs) {
			errs = append(errs, fmt.Errorf("failed_log_dir: %q is neither an absolute path nor one below the plugin's root "+
				"directory", s.failedLogs))
		}
		s.failedLogs = filepath.Join(root, s.failedLogs)
	}
	if c.FailedLogs < 0 {
		errs = append(errs, fmt.Errorf("failed_logs: %d is negative", c.FailedLogs))
	}
	for _, limit := range []struct {
		key   string
		value int64
	}{
		{"max_metadata_size", c.MaxMetadataSize}, {"max_log_size", c.MaxLogSize}, {"max_diff_size", c.MaxDiffSize},
		{"max_archive_size", c.MaxArchiveSize}, {"max_entries", int64(c.MaxEntries)},
	} {
		if limit.value <= 0 {
			errs = append(errs, fmt.Errorf("%s: %d is not positive", limit.key, limit.value))
		}
	}
	s.limits = checkpoint.Limits{
		MetadataBytes: c.MaxMetadataSize, LogBytes: c.MaxLogSize, DiffBytes: c.MaxDiffSize,
		ArchiveBytes: c.MaxArchiveSize, Entries: c.MaxEntries,
	}
	if len(errs) > 0 {
		// One line: it ends up in a log and in a CRI error.
		text := strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
		return nil, fmt.Errorf("invalid configuration: %s: %w", text, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// archives are the two forms that AllowArchives has.
func (c *Config) archives() (all bool, dirs []string, err error) {
	switch v := c.AllowArchives.(type) {
	case bool:
		return v, nil, nil
	case []any:
		for _, one := range v {
			dir, ok := one.(string)
			if !ok {
				return false, nil, fmt.Errorf("allow_archives: %v is no directory", one)
			}
			dirs = append(dirs, dir)
		}
		return false, dirs, nil
	}
	return false, nil, fmt.Errorf("allow_archives: %q is neither a boolean nor a list of directories",
		fmt.Sprint(c.AllowArchives))
}
