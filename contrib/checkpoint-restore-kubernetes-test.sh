#!/usr/bin/env bash
# Restores pods in a real Kubernetes of one node: etcd, kube-apiserver, kubelet, and our
# containerd. "make test-kubernetes" runs it; by hand, as root, after
# "make deps build build-kubernetes":
#
#   contrib/checkpoint-restore-kubernetes-test.sh
#
# The daemons listen on the loopback interface, live in a temporary folder, and share nothing
# with others of the machine. All of it goes at the end, after a failure and after ^C too; what is left
# is a failure. Copies can run beside each other. The tests are in integration/kubernetes.
#
# TEST=REGEXP runs only some; TEST_RESULTS=DIR also writes the events of go test -json there;
# KEEP=1 keeps the folder with all logs. CRI_RESTORE_BIN is the folder of the binaries, by default bin/ of the
# repository.
set -euo pipefail
export LC_ALL=C

contrib=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CRI_RESTORE_REPO=${contrib%/*}
# shellcheck source=contrib/env.sh
. "$contrib/env.sh"
cd "$CRI_RESTORE_REPO"
bin=${CRI_RESTORE_BIN:-$CRI_RESTORE_REPO/bin}

(($# == 0)) || {
	echo "usage: $0 (no arguments)" >&2
	exit 2
}
[ "$(id -u)" = 0 ] || {
	echo "FAIL: set-up: this needs root: containers, mounts and CRIU do" >&2
	exit 1
}
for tool in "$bin"/{containerd,containerd-shim-runc-v2,ctr,crictl,runc,checkpoint-image,kubelet,kube-apiserver,kubectl,etcd} \
	criu busybox "$CNI_PATH/bridge" "$CNI_PATH/host-local" "$CNI_PATH/loopback"; do
	command -v "$tool" >/dev/null || {
		echo "FAIL: set-up: $tool is missing: run \"make deps build build-kubernetes\"" >&2
		exit 1
	}
done

summary=(gotestsum --format testname)
[ -z "${TEST_RESULTS:-}" ] || summary+=(--jsonfile "$TEST_RESULTS/test-kubernetes.json")
# The tests mostly wait for the kubelet: more of them than there are processors can run beside each other.
go tool -modfile=contrib/tools/gotestsum/go.mod "${summary[@]}" -- \
	-count=1 -parallel 6 -timeout 40m -run "${TEST:-.}" ./integration/kubernetes/...
echo PASS
