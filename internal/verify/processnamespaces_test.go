package verify

import (
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pidns"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// two is a checkpoint of two processes.
func two() map[string]string {
	return criutest.Checkpoint(criutest.Task{PID: 1}, criutest.Task{PID: 7})
}

// TestProcessNamespaces puts the second process somewhere else than the first.
func TestProcessNamespaces(t *testing.T) {
	ids := func(j judgement, f func(*criu_core.TaskKobjIdsEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "ids-7.img", "IDS", f) }
		return j
	}
	elsewhere := proto.Uint32(1) // CRIU's, the node's
	same := proto.Uint32(2)
	cases := map[string]judgement{
		"a table of open files of its own": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "ids-7.img", "IDS", func(e *criu_core.TaskKobjIdsEntry) { e.FilesId = proto.Uint32(3) })
			files["fdinfo-3.img"] = criutest.Image("FDINFO")
		}},
		"time":        ids(judgement{refused: "process 7: time namespace"}, func(e *criu_core.TaskKobjIdsEntry) { e.TimeNsId = elsewhere }),
		"cgroup":      ids(judgement{refused: "process 7: cgroup namespace"}, func(e *criu_core.TaskKobjIdsEntry) { e.CgroupNsId = elsewhere }),
		"not named":   ids(judgement{malformed: "it has no pid namespace"}, func(e *criu_core.TaskKobjIdsEntry) { e.PidNsId = nil }),
		"with number": ids(judgement{malformed: "it has no ipc namespace"}, func(e *criu_core.TaskKobjIdsEntry) { e.IpcNsId = proto.Uint32(0) }),
		"no IDs":      {change: func(files map[string]string, _ *specs.Spec) { delete(files, "ids-7.img") }, malformed: "ids-7.img"},
		"other IDs in the core image": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "core-7.img", "CORE", func(e *criu_core.CoreEntry) { e.Ids = criutest.IDs(3, specs.UserNamespace) })
		}, malformed: "not those of ids-7.img"},
		"the same IDs in the core image": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "core-7.img", "CORE", func(e *criu_core.CoreEntry) { e.Ids = criutest.IDs(2, specs.UserNamespace) })
		}},
	}
	for kind, set := range map[specs.LinuxNamespaceType]func(*criu_core.TaskKobjIdsEntry){
		specs.NetworkNamespace: func(e *criu_core.TaskKobjIdsEntry) { e.NetNsId = elsewhere },
		specs.PIDNamespace:     func(e *criu_core.TaskKobjIdsEntry) { e.PidNsId = elsewhere },
		specs.IPCNamespace:     func(e *criu_core.TaskKobjIdsEntry) { e.IpcNsId = elsewhere },
		specs.UTSNamespace:     func(e *criu_core.TaskKobjIdsEntry) { e.UtsNsId = elsewhere },
		specs.MountNamespace:   func(e *criu_core.TaskKobjIdsEntry) { e.MntNsId = elsewhere },
		specs.UserNamespace:    func(e *criu_core.TaskKobjIdsEntry) { e.UserNsId = same },
	} {
		cases[string(kind)] = ids(judgement{refused: "process 7: " + string(kind) + " namespace"}, set)
	}
	judge(t, two, cases)
}

// TestUserNamespace has all processes in one.
func TestUserNamespace(t *testing.T) {
	judge(t, single, map[string]judgement{"of its own": {
		change: func(files map[string]string, _ *specs.Spec) {
			files["ids-1.img"] = criutest.Image("IDS", criutest.IDs(2))
		},
		refused: "user namespace",
	}})
}

func TestExternalNamespaces(t *testing.T) {
	network := func(j judgement, e *netdev.NetnsEntry) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { files["netns-2.img"] = criutest.Image("NETNS", e) }
		return j
	}
	external := func(files map[string]string, key string) {
		files["pidns-2.img"] = criutest.Image("PIDNS", &pidns.PidnsEntry{ExtKey: &key})
	}
	shared := func(spec *specs.Spec) { in(spec, specs.PIDNamespace, joined) }
	judge(t, single, map[string]judgement{
		"no image of the network": {
			change:  func(files map[string]string, _ *specs.Spec) { delete(files, "netns-2.img") },
			refused: "network namespace: found one of its own",
		},
		"network of its own":    network(judgement{refused: "found one of its own"}, &netdev.NetnsEntry{}),
		"under another name":    network(judgement{refused: "found extRootPidNS"}, &netdev.NetnsEntry{ExtKey: proto.String("extRootPidNS")}),
		"under an empty name":   network(judgement{refused: "network namespace"}, &netdev.NetnsEntry{ExtKey: proto.String("")}),
		"with other properties": network(judgement{malformed: "properties"}, &netdev.NetnsEntry{ExtKey: proto.String("extRootNetNS"), DefConf: []int32{1}}),
		"the spec has a network of its own": {
			change: func(_ map[string]string, s *specs.Spec) { in(s, specs.NetworkNamespace, private) }, refused: "network namespace",
		},
		"the node's network": {change: func(files map[string]string, _ *specs.Spec) {
			files["ids-1.img"] = criutest.Image("IDS", criutest.IDs(2, specs.UserNamespace, specs.NetworkNamespace))
			delete(files, "netns-2.img")
		}},
		"shared PID": {change: func(files map[string]string, s *specs.Spec) { external(files, "extRootPidNS"); shared(s) }},
		"shared PID into private": {
			change: func(files map[string]string, _ *specs.Spec) { external(files, "extRootPidNS") }, refused: "pid namespace: found extRootPidNS, allowed one of its own",
		},
		"private PID into shared": {
			change: func(_ map[string]string, s *specs.Spec) { shared(s) }, refused: "pid namespace: found one of its own, allowed extRootPidNS",
		},
		"shared PID under another name": {
			change: func(files map[string]string, s *specs.Spec) { external(files, "pipe:[7]"); shared(s) }, refused: "found pipe:[7]",
		},
	})
}

func TestClocks(t *testing.T) {
	clock := func(j judgement, f func(e *timens.TimensEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "timens-0.img", "TIMENS", f) }
		return j
	}
	restored := func(files map[string]string) {
		change(files, "ids-1.img", "IDS", func(e *criu_core.TaskKobjIdsEntry) { e.TimeNsId = proto.Uint32(2) })
	}
	judge(t, single, map[string]judgement{
		"none":             {change: func(files map[string]string, _ *specs.Spec) { delete(files, "timens-0.img") }},
		"ten years":        clock(judgement{}, func(e *timens.TimensEntry) { e.Boottime.TvSec = proto.Uint64(maxUptime / 10) }),
		"far ahead":        clock(judgement{malformed: "a clock"}, func(e *timens.TimensEntry) { e.Monotonic.TvSec = proto.Uint64(1 << 63) }),
		"just too far":     clock(judgement{malformed: "a clock"}, func(e *timens.TimensEntry) { e.Boottime.TvSec = proto.Uint64(maxUptime + 1) }),
		"many nanoseconds": clock(judgement{malformed: "a clock"}, func(e *timens.TimensEntry) { e.Boottime.TvNsec = proto.Uint64(1e9) }),
		// Of a container that was restored before.
		"time namespace of its own": {change: func(files map[string]string, _ *specs.Spec) {
			restored(files)
			files["timens-2.img"] = files["timens-0.img"]
		}},
		"time namespace without a clock": {
			change: func(files map[string]string, _ *specs.Spec) { restored(files) }, malformed: "timens-2.img",
		},
	})
}
