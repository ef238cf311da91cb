# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: what CRI and the registry know of the base
# image. Uses dir, base and base_digest of its caller.

# has_base_without_tag: CRI lists the base image, and by no tag.
has_base_without_tag() {
	call crictl images -o json
	jq -e --arg ref "${base%:*}@$base_digest" \
		'[.images[] | select(.repoDigests | index($ref))] | length == 1 and (.[0].repoTags | length == 0)' >/dev/null <<<"$out" ||
		fail "base image ${base%:*}@$base_digest is not there, or has a tag: $(jq -c '[.images[] | {repoTags, repoDigests}]' <<<"$out")"
	call ctr images ls -q
	! grep -qxF "$base" <<<"$out" || fail "there is an image named $base, which nobody has asked for"
}

# The registry's log, from here on.
listen_to_registry() { heard=$(stat -c %s "$dir/log/registry.log"); }
registry_heard() { tail -c +$((heard + 1)) "$dir/log/registry.log" | grep -E "$1" >"$dir/heard"; }
