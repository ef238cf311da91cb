#!/usr/bin/env bash
# Runs integration tests in the guest: "part", those that touch what is different here, or "all". TEST=REGEXP chooses
# among all. CRI_RESTORE_CGROUP_DRIVER is containerd's cgroup driver, for the harness.
set -euo pipefail
cd /root/cri-restore
. contrib/env.sh
# Go is not here: what tests build was built on the host.
export CRI_RESTORE_WORKLOAD=$PWD/bin/test/workload

# By what they touch: cgroups, OOM, statistics; namespaces; mounts; labels and credentials; freezer and checkpoints; lazy restores.
part=(
	TestOrdinaryStats TestOrdinaryOOM TestOrdinaryModes TestGrantCgroups TestRestoreIsolation TestRestoreResources
	TestRestoreCgroupNamespace TestRestoreNamespaceModes
	TestGrantMounts TestGrantReadonly
	TestGrantLSM TestGrantRestricted
	TestCheckpointRestores TestCheckpointKilled
	TestLazyRestore
)
# With the other driver only what knows a cgroup's path.
part_systemd=(TestOrdinaryStats TestOrdinaryOOM TestOrdinaryModes TestGrantCgroups TestRestoreIsolation TestRestoreCgroupNamespace TestCheckpointKilled)

case $1 in
part)
	[ "$CRI_RESTORE_CGROUP_DRIVER" != systemd ] || part=("${part_systemd[@]}")
	run="^($(IFS='|' && echo "${part[*]}"))\$"
	;;
all) run=. ;;
esac
cd integration
# One at a time: an emulated processor is slow enough for the tests' deadlines. The long ones have targets of their own. The fixtures are from another processor than an emulated one, and from cgroup v1.
exec ../bin/test/integration.test -test.v=test2json -test.timeout 6h -test.parallel 1 -test.run "${TEST:-$run}" -test.skip '^(TestChaos|TestChaosDisk|TestSoak|TestFixtures)$'
