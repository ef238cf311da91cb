package upstream

import (
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestNameOf(t *testing.T) {
	c := &containers.Container{ID: "c1"}
	if _, err := NameOf(c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container of others: %v", err)
	}
	for value, want := range map[string]string{`{"Version":"v1","Metadata":{"Name":"counter"}}`: "counter", "{": ""} {
		c.Extensions = map[string]typeurl.Any{ExtensionMetadata: &anypb.Any{Value: []byte(value)}}
		if got, err := NameOf(c); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", value, got, err)
		}
	}
}

func TestDirectories(t *testing.T) {
	bundles := "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	if got := Bundles("/run/containerd/io.containerd.cri.v1.restore"); got != bundles {
		t.Error(got)
	}
	want := "/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c1/status"
	if got := StatusFile("/var/lib/containerd/io.containerd.cri.v1.restore", "c1"); got != want {
		t.Error(got)
	}
}
