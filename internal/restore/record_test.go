package restore

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/cri-restore/cri-restore/internal/phase"
)

func fullRecord() *Record {
	return &Record{
		ID: NewID(), Image: "registry.example/c:1", ImageDigest: "sha256:abc", Snapshotter: "overlayfs",
		SnapshotKey: "cri-restore-x",
		BaseImage:   "registry.example/base@sha256:def", Producer: "containerd",
		CheckpointedAt: time.Date(2026, 11, 23, 9, 0, 0, 5, time.UTC),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"image":   func(*Record) {},
		"ended":   func(r *Record) { r.Ended = true },
		"lazy":    func(r *Record) { r.Lazy, r.Draining = true, true },
		"lost":    func(r *Record) { r.PagesLost, r.Times = "why", phase.Times{{Phase: "verify", Took: 7}} },
		"archive": func(r *Record) { r.ImageDigest, r.Snapshotter, r.SnapshotKey = "", "", "" },
	} {
		t.Run(name, func(t *testing.T) {
			want := fullRecord()
			change(want)
			labels, other := map[string]string{"app": "x"}, raw("other", []byte("y"))
			c := containers.Container{ID: "c1", Labels: labels, Extensions: map[string]typeurl.Any{"other": other}}
			check(t, want.Attach(&c))
			got, err := Load(&c)
			check(t, err)
			if !reflect.DeepEqual(got, want) || got.Version != recordVersion {
				t.Errorf("got %+v, want %+v", got, want)
			}
			ref, ok := c.Labels["containerd.io/gc.ref.snapshot.overlayfs"]
			if wantRef := want.SnapshotKey != "" && !want.Ended; ok != wantRef || (ok && ref != want.SnapshotKey) {
				t.Errorf("reference of the garbage collector: %q, %t", ref, ok)
			}
			if c.Labels[LabelID] != want.ID || c.Labels["app"] != "x" || c.Extensions["other"] != other {
				t.Errorf("labels %v, extensions %v", c.Labels, c.Extensions)
			}
			if !maps.Equal(labels, map[string]string{"app": "x"}) {
				t.Error("the caller's map was changed")
			}
		})
	}
}

func TestEndedRecordDropsItsReference(t *testing.T) {
	c, r := containers.Container{ID: "c1"}, fullRecord()
	check(t, r.Attach(&c))
	c.Labels["containerd.io/gc.ref.snapshot.other"] = "stays"
	r.Ended = true
	check(t, r.Attach(&c))
	if _, ok := c.Labels["containerd.io/gc.ref.snapshot.overlayfs"]; ok {
		t.Error("the view is still referred to")
	}
	if c.Labels["containerd.io/gc.ref.snapshot.other"] != "stays" || c.Labels[LabelID] != r.ID {
		t.Errorf("labels %v", c.Labels)
	}
}

func TestLoadRefuses(t *testing.T) {
	if _, err := Load(&containers.Container{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("no record: %v", err)
	}
	id := NewID()
	for name, c := range map[string]struct {
		value string
		says  string
	}{
		"newer":          {fmt.Sprintf(`{"version":2,"id":%q}`, id), "version 2"},
		"garbage":        {`{"version":`, "c1"},
		"nothing":        {``, "c1"},
		"other type":     {`[1]`, "c1"},
		"no ID":          {`{"version":1}`, `ID ""`},
		"traversal":      {`{"version":1,"id":"../x"}`, `ID "../x"`},
		"absolute":       {`{"version":1,"id":"/etc"}`, `ID "/etc"`},
		"braces":         {fmt.Sprintf(`{"version":1,"id":"{%s}"}`, id), "ID"},
		"slashes around": {fmt.Sprintf(`{"version":1,"id":"/%s/"}`, id), "ID"},
		"URN":            {fmt.Sprintf(`{"version":1,"id":"urn:uuid:%s"}`, id), "ID"},
		"without dashes": {`{"version":1,"id":"0123456789abcdef0123456789abcdef"}`, "ID"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(&containers.Container{ID: "c1",
				Extensions: map[string]typeurl.Any{extensionRecord: raw("x", []byte(c.value))}})
			wantError(t, err, errdefs.IsFailedPrecondition, "c1", c.says)
		})
	}
	r, err := Load(&containers.Container{ID: "c1", Extensions: map[string]typeurl.Any{
		extensionRecord: raw("x", fmt.Appendf(nil, `{"version":1,"id":%q,"later":"field"}`, id)),
	}})
	check(t, err)
	if r.ID != id {
		t.Errorf("%+v", r)
	}
}

func TestStoreAttachAndList(t *testing.T) {
	w := newWorld(t)
	w.container("ordinary")
	w.container("c1")
	want := fullRecord()
	check(t, w.store.Attach(w.ctx, "c1", want, func(c *containers.Container) error {
		c.Spec = raw(c.Spec.GetTypeUrl(), []byte(`{"changed":true}`))
		return nil
	}))
	c, got, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	if !reflect.DeepEqual(got, want) || string(c.Spec.GetValue()) != `{"changed":true}` || c.Labels["app"] != "x" {
		t.Errorf("got %+v in %+v", got, c)
	}
	if ids, err := w.store.List(w.ctx); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%v, %v", ids, err)
	}
	if c, _, err := w.store.Get(w.ctx, "ordinary"); !errdefs.IsNotFound(err) || c == nil {
		t.Errorf("ordinary: %v, %v", c, err)
	}
	if c, _, err := w.store.Get(w.ctx, "absent"); !errdefs.IsNotFound(err) || c != nil {
		t.Errorf("absent: %v, %v", c, err)
	}
	if err := w.store.Attach(w.ctx, "absent", want, nil); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	// A change that fails leaves the container as it was.
	broken := fmt.Errorf("broken: %w", errdefs.ErrInternal)
	if err := w.store.Attach(w.ctx, "ordinary", want,
		func(*containers.Container) error { return broken }); !errdefs.IsInternal(err) {
		t.Errorf("%v", err)
	}
	if _, _, err := w.store.Get(w.ctx, "ordinary"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

// asked is what the CRI plugin keeps of a request, with annotations that anybody can give (containerd:
// internal/cri/store/container).
func asked(t *testing.T, annotations map[string]string) typeurl.Any {
	value, err := json.Marshal(map[string]any{"Version": "v1",
		"Metadata": map[string]any{"ID": "c1", "Config": map[string]any{"annotations": annotations}}})
	check(t, err)
	return raw("x", value)
}

func TestUnfinished(t *testing.T) {
	const metadata, note = "io.cri-containerd.container.metadata", "org.criu.restore/origin"
	claims := asked(t, fullRecord().Annotations())
	done := containers.Container{ID: "c1", Extensions: map[string]typeurl.Any{note: raw("x", []byte(`{"id":"1"}`))}}
	check(t, fullRecord().Attach(&done))
	for name, c := range map[string]struct {
		extensions map[string]typeurl.Any
		want       bool
	}{
		"ordinary":               {nil, false},
		"what a request can say": {map[string]typeurl.Any{metadata: claims}, false},
		"noted": {map[string]typeurl.Any{metadata: claims,
			note: raw("x", []byte(`{"id":"1","image":"i"}`))}, true},
		"noted, not to be read": {map[string]typeurl.Any{note: raw("x", []byte(`{`))}, true},
		"noted, begins anew": {map[string]typeurl.Any{note: raw("x",
			[]byte(`{"id":"1","image":"i","fresh":"why"}`))}, false},
		"noted and recorded": {done.Extensions, false},
		"a record that cannot be read": {map[string]typeurl.Any{note: raw("x", []byte(`{}`)),
			extensionRecord: raw("x", []byte(`{`))}, false},
		"of a plugin that noted nothing": {map[string]typeurl.Any{extensionRecord: done.Extensions[extensionRecord]}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Unfinished(&containers.Container{ID: "c1", Extensions: c.extensions}); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestImageID(t *testing.T) {
	recorded := &containers.Container{ID: "c1"}
	r := fullRecord()
	r.ImageID = "sha256:recorded"
	check(t, r.Attach(recorded))
	for name, c := range map[string]struct {
		extensions map[string]typeurl.Any
		want       string
	}{
		"ordinary": {nil, ""},
		"what a request can say": {map[string]typeurl.Any{"io.cri-containerd.container.metadata": asked(t,
			map[string]string{AnnotationImageID: "sha256:x"})}, ""},
		"noted": {map[string]typeurl.Any{"org.criu.restore/origin": raw("x",
			[]byte(`{"imageID":"sha256:noted","fresh":"why"}`))}, "sha256:noted"},
		"recorded, not noted": {recorded.Extensions, "sha256:recorded"},
	} {
		if got := ImageID(&containers.Container{ID: "c1", Extensions: c.extensions}); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPending(t *testing.T) {
	of := func(change func(*Record)) *containers.Container {
		r, c := fullRecord(), &containers.Container{ID: "c1"}
		change(r)
		check(t, r.Attach(c))
		return c
	}
	with := func(key, value string) *containers.Container {
		return &containers.Container{ID: "c1", Extensions: map[string]typeurl.Any{key: raw("x", []byte(value))}}
	}
	for name, c := range map[string]struct {
		container *containers.Container
		want      bool
	}{
		"to be restored":    {of(func(*Record) {}), true},
		"tried":             {of(func(r *Record) { r.Ended = true }), false},
		"ordinary":          {&containers.Container{ID: "c1"}, false},
		"another extension": {with("other", `{}`), false},
		"unfinished":        {with("org.criu.restore/origin", `{"id":"x"}`), true},
		"begins anew":       {with("org.criu.restore/origin", `{"id":"x","fresh":"why"}`), false},
		"only asked for": {&containers.Container{ID: "c1",
			Extensions: map[string]typeurl.Any{"io.cri-containerd.container.metadata": asked(t, fullRecord().Annotations())}},
			false},
		"cannot be read": {with(extensionRecord, `{`), true},
		"newer":          {with(extensionRecord, `{"version":99,"ended":true}`), true},
	} {
		if got := Pending(c.container); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAnnotations(t *testing.T) {
	r := fullRecord()
	r.CheckpointedAt = r.CheckpointedAt.In(time.FixedZone("x", 3600))
	want := map[string]string{
		"org.criu.restore/id": r.ID, "org.criu.restore/checkpoint-image": r.Image,
		"org.criu.restore/checkpoint-digest": "sha256:abc",
		"org.criu.restore/base-image":        r.BaseImage, "org.criu.restore/producer": "containerd",
		"org.criu.restore/checkpointed-at": "2026-11-23T09:00:00Z",
	}
	if got := r.Annotations(); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	r.ImageDigest, r.CheckpointedAt = "", time.Time{}
	delete(want, "org.criu.restore/checkpoint-digest")
	delete(want, "org.criu.restore/checkpointed-at")
	if got := r.Annotations(); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
