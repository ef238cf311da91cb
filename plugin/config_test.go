package plugin

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/policy"
)

const root = "/var/lib/containerd/io.containerd.cri.v1.restore"

func TestDefaultConfigIsValid(t *testing.T) {
	c := DefaultConfig()
	s, err := c.validate(root)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Enable || c.AllowArchives != false {
		t.Errorf("%+v", c)
	}
	if s.limits != checkpoint.DefaultLimits() || s.pullTimeout != 30*time.Minute ||
		s.failedLogs != filepath.Join(root, "failed") {
		t.Errorf("%+v", s)
	}
	if err := s.policy.Namespace("default"); err != nil {
		t.Error(err)
	}
	if err := s.policy.Image("", "registry.example/a/b:1"); err != nil {
		t.Error(err)
	}
	if _, err := s.policy.Archive("/a.tar"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("archives: %v", err)
	}
}

// keys returns the keys of the configuration file.
func keys(t *testing.T) []string {
	t.Helper()
	var out []string
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		key := f.Tag.Get("toml")
		if key == "" || strings.Contains(key, ",") {
			t.Errorf("%s has key %q", f.Name, key)
		}
		out = append(out, key)
	}
	return out
}

// Each key's bad values are refused by its name. A new key must say here what a bad value is.
func TestBadValuesAreRefusedByName(t *testing.T) {
	bad := map[string][]func(*Config){
		// every value is good
		"enable": nil, "pull_base_images": nil, "allow_checkpoint_images": nil, "disable_mptcp": nil,
		"max_concurrent_restores": nil,
		"allow_archives": {func(c *Config) { c.AllowArchives = "yes" },
			func(c *Config) { c.AllowArchives = []any{1} }, func(c *Config) { c.AllowArchives = []any{"a"} },
			func(c *Config) { c.AllowArchives = nil }},
		"verification":    {func(c *Config) { c.Verification = "" }, func(c *Config) { c.Verification = "off" }},
		"tcp_connections": {func(c *Config) { c.TCPConnections = "keep" }},
		"verification_timeout": {func(c *Config) { c.VerificationTimeout = "" },
			func(c *Config) { c.VerificationTimeout = "10" }, func(c *Config) { c.VerificationTimeout = "-1s" }},
		"command_timeout": {func(c *Config) { c.CommandTimeout = "0s" }, func(c *Config) { c.CommandTimeout = "" },
			func(c *Config) { c.CommandTimeout = "1500ms" }},
		"checkpoint_compression": {func(c *Config) { c.CheckpointCompression = "gzip" }},
		"lazy_pages":             {func(c *Config) { c.LazyPages = "yes" }},
		"pod_annotations":        {func(c *Config) { c.PodAnnotations = []string{"lazy"} }},
		"allowed_images": {func(c *Config) { c.AllowedImages = []string{"a["} },
			func(c *Config) { c.AllowedImages = []string{""} }},
		"allowed_base_images": {func(c *Config) { c.AllowedBaseImages = []string{"a["} }},
		"allowed_namespaces": {func(c *Config) { c.AllowedNamespaces = []string{"a**b"} },
			func(c *Config) { c.AllowedNamespaces = []string{"*", ""} }},
		"base_image_pull_timeout": timeouts("", "30", "0s", "-1m", "soon"),
		"criu_config": {func(c *Config) { c.CRIUConfig = "criu.conf" },
			func(c *Config) { c.CRIUConfig = "./etc/criu/runc.conf" }},
		"failed_log_dir": {func(c *Config) { c.FailedLogDir = "../elsewhere" },
			func(c *Config) { c.FailedLogDir = "a/../../b" }},
		"failed_logs":       {func(c *Config) { c.FailedLogs = -1 }},
		"max_metadata_size": sizes(func(c *Config, n int64) { c.MaxMetadataSize = n }),
		"max_log_size":      sizes(func(c *Config, n int64) { c.MaxLogSize = n }),
		"max_diff_size":     sizes(func(c *Config, n int64) { c.MaxDiffSize = n }),
		"max_archive_size":  sizes(func(c *Config, n int64) { c.MaxArchiveSize = n }),
		"max_entries":       sizes(func(c *Config, n int64) { c.MaxEntries = int(n) }),
	}
	all := DefaultConfig()
	var named []string
	for _, key := range keys(t) {
		changes, ok := bad[key]
		if !ok {
			t.Errorf("%s: nobody says what a bad value is", key)
		}
		for i, change := range changes {
			c := DefaultConfig()
			change(&c)
			wantInvalid(t, &c, key+":")
			if i == 0 {
				change(&all)
				named = append(named, key+":")
			}
		}
	}
	// All of them at once, in one line.
	wantInvalid(t, &all, named...)
}

func timeouts(values ...string) (out []func(*Config)) {
	for _, v := range values {
		out = append(out, func(c *Config) { c.BaseImagePullTimeout = v })
	}
	return out
}

func sizes(set func(*Config, int64)) []func(*Config) {
	return []func(*Config){func(c *Config) { set(c, 0) }, func(c *Config) { set(c, -1) }}
}

func wantInvalid(t *testing.T, c *Config, says ...string) {
	t.Helper()
	_, err := c.validate(root)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("%s: got %v, want invalid argument", says, err)
		return
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not name %q: %v", s, err)
		}
	}
}

func TestGoodValues(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		check  func(*settings) bool
	}{
		"archives": {func(c *Config) { c.AllowArchives = true }, func(s *settings) bool {
			_, err := s.policy.Archive("/a.tar")
			return err == nil
		}},
		"archives of a directory": {func(c *Config) { c.AllowArchives = []any{"/a"} }, func(s *settings) bool {
			_, err := s.policy.Archive("/a/a.tar")
			_, other := s.policy.Archive("/b/a.tar")
			return err == nil && other != nil
		}},
		"audit": {func(c *Config) { c.Verification = "audit" }, func(*settings) bool { return true }},
		"connections": {func(c *Config) { c.TCPConnections = "close" }, func(s *settings) bool {
			pod, err := s.policy.Pod(nil)
			return err == nil && pod.TCP == policy.CloseTCP
		}},
		"annotations": {func(c *Config) { c.PodAnnotations = []string{"tcp-connections"} }, func(s *settings) bool {
			pod, err := s.policy.Pod(map[string]string{"org.criu.restore/tcp-connections": "restore"})
			return err == nil && pod.TCP == policy.RestoreTCP
		}},
		"lazy": {func(c *Config) { c.LazyPages = "off" }, func(s *settings) bool {
			pod, err := s.policy.Pod(nil)
			return err == nil && pod.Lazy == policy.LazyOff
		}},
		"images of checkpoints": {func(c *Config) { c.AllowCheckpointImages = true },
			func(s *settings) bool { return s.policy.CheckpointImage("a") == nil }},
		"no images of them": {func(*Config) {}, func(s *settings) bool { return s.policy.CheckpointImage("a") != nil }},
		"compression": {func(c *Config) { c.CheckpointCompression = "zstd" }, func(s *settings) bool {
			pod, err := s.policy.Pod(nil)
			return err == nil && pod.Compression == policy.Zstd
		}},
		"no image": {func(c *Config) { c.AllowedImages = []string{} },
			func(s *settings) bool { return s.policy.Image("", "a") != nil }},
		"no base image": {func(c *Config) { c.AllowedBaseImages = nil },
			func(s *settings) bool { return s.policy.BaseImage("", "a") != nil }},
		"no namespace": {func(c *Config) { c.AllowedNamespaces = nil },
			func(s *settings) bool { return s.policy.Namespace("default") != nil }},
		"no file of the node": {func(c *Config) { c.CRIUConfig = "" }, func(*settings) bool { return true }},
		"no logs": {func(c *Config) { c.FailedLogDir, c.FailedLogs = "", 0 },
			func(s *settings) bool { return s.failedLogs == "" }},
		"logs elsewhere": {func(c *Config) { c.FailedLogDir = "/var/log/restores" },
			func(s *settings) bool { return s.failedLogs == "/var/log/restores" }},
		"logs deeper": {func(c *Config) { c.FailedLogDir = "a/b" },
			func(s *settings) bool { return s.failedLogs == root+"/a/b" }},
		"a small limit": {func(c *Config) { c.MaxDiffSize = 1 },
			func(s *settings) bool { return s.limits.DiffBytes == 1 }},
		"a patient pull": {func(c *Config) { c.BaseImagePullTimeout = "1h30m" },
			func(s *settings) bool { return s.pullTimeout == 90*time.Minute }},
		"turned off": {func(c *Config) { c.Enable = false }, func(*settings) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			config := DefaultConfig()
			c.change(&config)
			s, err := config.validate(root)
			if err != nil {
				t.Fatal(err)
			}
			if !c.check(s) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What "containerd config dump" writes, containerd reads back; no key is lost on the way.
func TestTOMLRoundTrip(t *testing.T) {
	changed := Config{
		Enable: false, AllowArchives: []any{"/a"}, AllowedImages: []string{"a/**", "b"}, AllowedBaseImages: []string{"c"},
		AllowedNamespaces: []string{"x"}, Verification: "audit", TCPConnections: "close", AllowCheckpointImages: true,
		CheckpointCompression: "zstd", LazyPages: "on", PodAnnotations: []string{"y"}, BaseImagePullTimeout: "1h",
		CRIUConfig: "/c", FailedLogDir: "/f", FailedLogs: 1, MaxMetadataSize: 2, MaxLogSize: 3, MaxDiffSize: 4,
		MaxArchiveSize: 5, MaxEntries: 6,
	}
	if v := reflect.ValueOf(changed); true {
		for i := range v.NumField() {
			if reflect.DeepEqual(v.Field(i).Interface(), reflect.ValueOf(DefaultConfig()).Field(i).Interface()) {
				t.Errorf("%s has its default: the round trip would not notice", v.Type().Field(i).Name)
			}
		}
	}
	for name, c := range map[string]Config{"default": DefaultConfig(), "changed": changed} {
		t.Run(name, func(t *testing.T) {
			text, err := toml.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys(t) {
				if !strings.Contains("\n"+string(text), "\n"+key+" = ") {
					t.Errorf("no key %s in\n%s", key, text)
				}
			}
			var got Config
			if err := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields().Decode(&got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c) {
				t.Errorf("got %+v, want %+v", got, c)
			}
		})
	}
	// A key that is not written keeps its default.
	got := DefaultConfig()
	if err := toml.Unmarshal([]byte("allow_archives = true\nallowed_images = ['a']\n"), &got); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.AllowArchives, want.AllowedImages = true, []string{"a"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
