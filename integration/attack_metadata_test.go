package integration

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

type object = map[string]any

// jsonFile returns a file of a checkpoint after a change to what is in it.
func jsonFile(t testing.TB, all []tarEntry, name string, change func(object)) tarEntry {
	t.Helper()
	var content object
	if err := json.Unmarshal([]byte(contentOf(t, all, name)), &content); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	change(content)
	data, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return regularEntry(name, string(data))
}

func contentOf(t testing.TB, all []tarEntry, name string) string {
	t.Helper()
	i := slices.IndexFunc(all, func(e tarEntry) bool { return e.Name == name })
	if i < 0 {
		t.Fatalf("the checkpoint has no %s", name)
	}
	return string(all[i].content)
}

// TestAttackMetadataForm gives JSON that two readers could understand in two ways, or
// that costs more to read than it is long.
func TestAttackMetadataForm(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	for _, name := range []string{"config.dump", "spec.dump"} {
		honest := contentOf(t, a.honest, name)
		open := strings.TrimSuffix(honest, "}")
		key := map[string]string{"config.dump": "rootfsImageRef", "spec.dump": "root"}[name]
		for _, tc := range []struct {
			what, content string
			code          codes.Code
			word          string
		}{
			{"duplicate key", open + `,"` + key + `":null}`, codes.InvalidArgument, key},
			{"second value", honest + `{}`, codes.InvalidArgument, name},
			{"nothing", ``, codes.InvalidArgument, name},
			{"an array", `[]`, codes.InvalidArgument, name},
			{"null", `null`, codes.InvalidArgument, ""},
			{"another type", open + `,"unknown":1,"` + map[string]string{"config.dump": "id", "spec.dump": "hostname"}[name] +
				`":5}`, codes.InvalidArgument, name},
			{"cut off", honest[:len(honest)/2], codes.InvalidArgument, name},
			{"deep", open + `,"unknown":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
				codes.InvalidArgument, name},
			{"many values", open + `,"unknown":[0` + strings.Repeat(",0", 2001) + `]}`, codes.ResourceExhausted, "max_entries"},
			{"long", open + `,"unknown":"` + strings.Repeat("x", 300<<10) + `"}`, codes.ResourceExhausted, "max_metadata_size"},
		} {
			t.Run(name+" "+tc.what, func(t *testing.T) {
				a.refuses(t, doctoredArchive(t, a.n, withEntries(a.honest, regularEntry(name, tc.content))), tc.code, tc.word)
			})
		}
		t.Run(name+" unknown key", func(t *testing.T) {
			content := open + `,"unknown":{"x":[1,{"y":null}]}}` + "\n"
			a.accepts(t, doctoredArchive(t, a.n, withEntries(a.honest, regularEntry(name, content))), nil)
		})
	}
	for what, content := range map[string]string{
		"fourth": `["/dev/null","pipe:[1]","pipe:[2]","pipe:[3]"]`,
		"number": `["/dev/null",1,2]`,
		"object": `{}`,
		"escape": `["/dev/null","pipe:[1]\u001b[2J","pipe:[2]"]`,
	} {
		t.Run("descriptors.json "+what, func(t *testing.T) {
			archive := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("checkpoint/descriptors.json", content)))
			a.refuses(t, archive, codes.InvalidArgument, "descriptors.json")
		})
	}
	for what, tc := range map[string]struct {
		key, value, word string
		code             codes.Code
	}{
		"base image without digest": {"rootfsImageRef", "docker.io/library/busybox:latest", "no digest",
			codes.InvalidArgument},
		"base image by another ID": {"rootfsImageRef", "sha256:" + strings.Repeat("ab", 32), "not on this node",
			codes.FailedPrecondition},
		"base image is a path": {"rootfsImageRef", a.secret, "no image reference", codes.InvalidArgument},
		"base image is long":   {"rootfsImageRef", strings.Repeat("a", 5000), "5000 bytes", codes.InvalidArgument},
		"no base image":        {"rootfsImageRef", "", "base image is missing", codes.InvalidArgument},
		"name with an escape":  {"name", "\x1b[2J", "control characters", codes.InvalidArgument},
	} {
		t.Run(what, func(t *testing.T) {
			config := jsonFile(t, a.honest, "config.dump", func(o object) { o[tc.key] = tc.value })
			a.refuses(t, doctoredArchive(t, a.n, withEntries(a.honest, config)), tc.code, tc.word)
		})
	}
	t.Run("no process", func(t *testing.T) {
		spec := jsonFile(t, a.honest, "spec.dump", func(o object) { delete(o, "process") })
		a.refuses(t, doctoredArchive(t, a.n, withEntries(a.honest, spec)), codes.InvalidArgument, "process")
	})
	a.goesOn(t)
}

// passAnnotations lets every annotation of pods and containers through to the OCI spec,
// as a node does that runs Kata or the like.
const passAnnotations = `
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
pod_annotations = ["*"]
container_annotations = ["*"]
`

// claims returns the checkpoint with everything that identifies, isolates or grants
// replaced by what an attacker would like. Only the command stays: it is shown if
// the request has none, and nobody runs it.
func (a *target) claims(t testing.TB, evil, criuConfig string) []tarEntry {
	t.Helper()
	annotations := object{
		"cdi.k8s.io/x": "evil.example/device=evil", "cdi.k8s.io": "evil.example/device=evil",
		"org.criu.config": criuConfig, "org.criu.restore/id": evil, "org.criu.restore/checkpoint-image": evil,
		"io.kubernetes.cri.rdt-class": evil, "io.kubernetes.cri.blockio-class": evil,
		"io.kubernetes.cri.container-name": evil, "io.kubernetes.cri.image-name": evil, "io.kubernetes.cri.sandbox-id": evil,
		"io.kubernetes.cri.sandbox-name": evil, "io.kubernetes.cri.sandbox-namespace": evil,
		"io.kubernetes.cri.sandbox-uid": evil,
		"io.kubernetes.container.hash":  evil, "run.oci.keep_original_groups": evil, "example.com/" + evil: evil,
	}
	config := jsonFile(t, a.honest, "config.dump", func(o object) {
		for _, key := range []string{"id", "name", "runtime"} {
			o[key] = evil
		}
		o["rootfsImage"], o["rootfsImageName"] = evil+".example/evil:latest", evil+".example/evil:latest"
		o["restored"] = true
	})
	spec := jsonFile(t, a.honest, "spec.dump", func(o object) {
		o["annotations"] = annotations
		o["hostname"], o["domainname"] = evil, evil
		o["hooks"] = object{"createRuntime": []object{{"path": "/bin/touch",
			"args": []string{"touch", filepath.Join(a.host, "evil")}}}}
		for _, m := range o["mounts"].([]any) {
			if mount := m.(object); mount["type"] == "bind" {
				mount["source"] = a.host
			}
		}
		process := o["process"].(object)
		process["env"] = []string{"EVIL=" + evil}
		process["apparmorProfile"], process["selinuxLabel"] = evil, evil
		process["oomScoreAdj"], process["noNewPrivileges"] = -999, false
		for _, set := range []string{"bounding", "effective", "permitted", "inheritable", "ambient"} {
			process["capabilities"].(object)[set] = []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}
		}
		linux := o["linux"].(object)
		linux["cgroupsPath"], linux["mountLabel"] = "/"+evil, evil
		linux["maskedPaths"], linux["readonlyPaths"] = []string{"/" + evil}, []string{"/" + evil}
		linux["sysctl"] = object{"kernel.shm_rmid_forced": evil}
		linux["devices"] = []object{{"path": "/dev/" + evil, "type": "b", "major": 8, "minor": 0}}
		linux["resources"] = object{"devices": []object{{"allow": true, "access": "rwm"}}}
		for _, n := range linux["namespaces"].([]any) {
			if ns := n.(object); ns["path"] != nil {
				ns["path"] = "/proc/1/ns/" + ns["type"].(string)
			}
		}
	})
	status := jsonFile(t, a.honest, "status.dump", func(o object) {
		o["id"], o["image_id"], o["image_ref"], o["reason"], o["message"] = evil, evil, evil, evil, evil
		o["metadata"] = object{"name": evil, "attempt": 7}
		o["image"] = object{"image": evil, "user_specified_image": evil}
		o["labels"] = object{"io.kubernetes.pod.uid": evil, "io.kubernetes.pod.name": evil,
			"io.kubernetes.container.name": evil}
		o["annotations"] = annotations
		o["log_path"] = filepath.Join(a.host, "evil")
		o["mounts"] = []object{{"container_path": "/evil", "host_path": a.host}}
	})
	// The names under which containerd 2.1 to 2.3 kept their own state beside these files.
	return withEntries(a.honest, config, spec, status, regularEntry("status", `{"Message":"`+evil+`"}`),
		regularEntry("ctrd-checkpoint", evil), regularEntry("ctrd-restore", evil))
}

// TestAttackMetadataClaims restores a checkpoint that says everything an attacker could
// say of himself, from an archive and from an image, and looks for it in the container.
func TestAttackMetadataClaims(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	evil := unique("evil")
	script, ran := filepath.Join(a.n.Dir(), "script"), filepath.Join(a.n.Dir(), "script-ran")
	writeHostFile(t, script, "#!/bin/sh\n: > "+ran+"\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	criuConfig := filepath.Join(a.n.Dir(), "criu.conf")
	writeHostFile(t, criuConfig, "action-script "+script+"\n")
	// Both are honest if the node or the request asks for them.
	writeHostFile(t, filepath.Join(filepath.Dir(a.n.Dir()), "cdi", "evil.json"), `{"cdiVersion":"0.6.0","kind":"evil.example/device",
		"devices":[{"name":"evil","containerEdits":{"env":["CDI=`+evil+`"]}}]}`)
	a.n.Reconfigure(harness.WithConfig(passAnnotations))

	all := a.claims(t, evil, criuConfig)
	archive := doctoredArchive(t, a.n, all)
	image := layerImage(t, a.n, all)
	a.n.Pull(image)
	for _, source := range []string{archive, image} {
		a.accepts(t, source, func(c *harness.Container) {
			id := c.ID
			c.Start()
			requireContinues(t, c, a.counted)
			for what, text := range map[string]string{
				"crictl inspect": a.n.Crictl("inspect", id), "crictl ps": a.n.Crictl("ps", "-a", "-o", "json"),
				"ctr containers info": a.n.Ctr("containers", "info", id), "crictl images": a.n.Crictl("images", "-o", "json"),
			} {
				// The archive's own name is not the checkpoint's.
				if i := strings.Index(text, evil); i >= 0 {
					t.Errorf("%s shows what the checkpoint claims: %s", what, text[max(0, i-200):i+len(evil)])
				}
			}
			requireNoAnnotationOf(t, c, criuConfig)
			if a.n.ImageStatus(evil+".example/evil:latest") != nil {
				t.Error("the name that the checkpoint gives its base image was created (CVE-2026-50195)")
			}
			requireAbsent(t, ran)
		})
		requireAbsent(t, ran)
	}

	t.Run("twin: CDI device of the request", func(t *testing.T) {
		c := a.pod.Create("cdi", a.n.Image(harness.Busybox), harness.Counting(),
			harness.Annotation("cdi.k8s.io/x", "evil.example/device=evil"))
		defer c.Remove()
		if !strings.Contains(a.n.Crictl("inspect", c.ID), "CDI="+evil) {
			t.Error("the request's CDI annotation has no effect: this test could not see the checkpoint's")
		}
	})
	t.Run("twin: CRIU configuration of the node", func(t *testing.T) {
		a.n.Reconfigure(harness.WithRestoreConfig(`criu_config = "` + criuConfig + `"`))
		a.accepts(t, a.archive, (*harness.Container).Start)
		if _, err := os.Stat(ran); err != nil {
			t.Errorf("the node's CRIU configuration has no effect, this test could not see the checkpoint's: %v", err)
		}
	})
	a.goesOn(t)
}

// requireNoAnnotationOf checks the annotations one by one: those of the request, those
// that containerd and the plugin set, no others.
func requireNoAnnotationOf(t *testing.T, c *harness.Container, criuConfig string) {
	t.Helper()
	var info struct {
		RuntimeSpec struct {
			Annotations map[string]string `json:"annotations"`
			Hooks       object            `json:"hooks"`
		} `json:"runtimeSpec"`
	}
	c.Info(&info)
	for key := range info.RuntimeSpec.Annotations {
		if !strings.HasPrefix(key, "io.kubernetes.cri.") && !strings.HasPrefix(key, "org.criu.restore/") &&
			key != "org.criu.config" {
			t.Errorf("annotation %q of the OCI spec is not of the request", key)
		}
	}
	for _, key := range []string{"io.kubernetes.cri.rdt-class", "io.kubernetes.cri.blockio-class"} {
		if value, ok := info.RuntimeSpec.Annotations[key]; ok {
			t.Errorf("annotation %q: %q, want none", key, value)
		}
	}
	if got := info.RuntimeSpec.Annotations["org.criu.config"]; got == criuConfig || got == "" {
		t.Errorf("org.criu.config: %q, want the plugin's own", got)
	}
	if len(info.RuntimeSpec.Hooks) > 0 {
		t.Errorf("hooks: %v, want none", info.RuntimeSpec.Hooks)
	}
	if got := c.Status().GetAnnotations()["org.criu.restore/checkpoint-image"]; got != c.Config.GetImage().GetImage() {
		t.Errorf("checkpoint image: %q, want %q", got, c.Config.GetImage().GetImage())
	}
}

func requireAbsent(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there, error %v", file, err)
	}
}

// TestAttackRequest gives pod and container annotations that are the plugin's to set.
func TestAttackRequest(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	a.n.Reconfigure(harness.WithConfig(passAnnotations))
	ref := imageOf(t, a.n, a.archive)
	criuConfig := filepath.Join(a.n.Dir(), "criu.conf")
	writeHostFile(t, criuConfig, "tcp-close\n")
	for _, source := range []string{a.archive, ref} {
		for _, key := range []string{"org.criu.config", "org.criu.restore/id", "org.criu.restore/",
			"org.criu.restore/checkpoint-image"} {
			t.Run(filepath.Base(source)+" "+key, func(t *testing.T) {
				before := a.n.Inventory(t)
				_, err := a.pod.TryCreate("victim", source, harness.Annotation(key, criuConfig))
				requireRefused(t, err, codes.InvalidArgument, `"`+key+`"`, "remove it")
				a.n.RequireNoLeak(t, before)
			})
		}
		t.Run(filepath.Base(source)+" of the pod", func(t *testing.T) {
			pod := a.n.Pod(t, harness.PodAnnotation("org.criu.config", criuConfig))
			before := a.n.Inventory(t)
			_, err := pod.TryCreate("victim", source)
			requireRefused(t, err, codes.InvalidArgument, `pod annotation "org.criu.config"`, "remove it")
			a.n.RequireNoLeak(t, before)
			// It is the pod's business for ordinary containers, as ever.
			c := pod.Run("ordinary", a.n.Image(harness.Busybox), harness.Counting())
			c.WaitCount(1)
		})
		t.Run(filepath.Base(source)+" twin", func(t *testing.T) {
			c := a.pod.Create("victim", source, harness.Annotation("org.criu.example/id", "honest"),
				harness.Annotation("org.criu", "honest"))
			c.Start()
			requireContinues(t, c, a.counted)
			if got := c.Status().GetAnnotations()["org.criu.example/id"]; got != "honest" {
				t.Errorf("annotation of the request: %q, want honest", got)
			}
			c.Remove()
			forgetLog(t, c)
		})
	}
}
