package criu

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestConfigFile(t *testing.T) {
	node := "# the node's\ntcp-close\nlog-file \"/var/log/my criu.log\""
	got, err := ConfigFile([]byte(node), []Option{
		{Name: "tcp-established"},
		{Name: "manage-cgroups", Value: "ignore"},
		{Name: "work-dir", Value: "/run/x/1"},
		{Name: "external", Value: "mnt[/a]:/b"},
	})
	want := node + "\ntcp-established\nmanage-cgroups=ignore\nwork-dir=/run/x/1\nexternal=mnt[/a]:/b\n"
	if err != nil || string(got) != want {
		t.Errorf("got  %q, %v\nwant %q", got, err, want)
	}
	if got, err := ConfigFile(nil, nil); err != nil || len(got) > 0 {
		t.Errorf("empty: %q, %v", got, err)
	}
	if got, err := ConfigFile([]byte("a\n"), nil); err != nil || string(got) != "a\n" {
		t.Errorf("node only: %q, %v", got, err)
	}
}

func TestConfigFileRefuses(t *testing.T) {
	for _, name := range []string{
		"", "--tcp-close", "-v", "v4 ", "tcp close", "tcp\nclose", "#x", "TCP", "a=b", "a\x00", "\"a\"", "a--b", "a-", "é",
	} {
		_, err := ConfigFile(nil, []Option{{Name: name}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, value := range []string{
		"a\nexec-cmd", "a\r", "a b", "a\tb", "#a", "a#b", `"a"`, "'a'", `a\`, "a\x00", "a\x7f", "a\xff", "a\u00a0b",
		"a\u2028b",
	} {
		_, err := ConfigFile(nil, []Option{{Name: "work-dir", Value: value}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "work-dir") {
			t.Errorf("value %q: %v", value, err)
		}
	}
	if _, err := ConfigFile([]byte("a\x00b"), nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("NUL in the node's file: %v", err)
	}
}
