# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: what the counter has logged. Uses dir of its
# caller and the functions of step.sh.

# numbers FILE: what the counter has logged.
numbers() { sed -n 's/^[^ ]* stdout F count \([0-9][0-9]*\)$/\1/p' "$1"; }
last_number() { numbers "$1" | tail -n 1; }
counted_to() { [ -f "$1" ] && (($(last_number "$1") + 0 >= $2)); }

# wait_count LOG NUMBER
wait_count() {
	wait_for 20 counted_to "$1" "$2" ||
		fail "no \"count $2\" in the log within 20 s; its end: $(tail -n 2 "$1" 2>/dev/null | tr '\n' ';')"
}

# goes_on LOG ARCHIVE BEFORE waits for new lines of a restored counter and compares them with
# those that the checkpoint brought. BEFORE is what it had counted to before the checkpoint
# was asked for. containerd copies the log into the archive when the process already runs
# again, so numbers after BEFORE may be there twice: once from the old process, once from
# the restored one. None may be missing.
goes_on() {
	local file=$1 before=$3 size old first number expected last
	tar -xOf "$2" container.log >"$dir/old.log"
	size=$(stat -c %s "$dir/old.log")
	cmp -s -n "$size" "$dir/old.log" "$file" || fail "the log does not begin with that of the checkpointed container"
	old=$(last_number "$dir/old.log")
	wait_for 20 has_new_lines "$file" "$size" || fail "no new lines in the log within 20 s; the container is: $(state)"
	first=$(numbers "$dir/new.log" | head -n 1)
	last=$(last_number "$dir/new.log")
	((first > before)) || fail "the counter is at $first, and was at $before before the checkpoint"
	((first <= old + 1)) || fail "the log jumps from $old to $first"
	expected=$first
	for number in $(numbers "$dir/new.log"); do
		((number == expected)) || fail "the log has $number where $expected is expected"
		expected=$((expected + 1))
	done
	note "before  $(tail -n 2 "$dir/old.log" | head -n 1)" "before  $(tail -n 1 "$dir/old.log")"
	for number in 1 2 3; do note "after   $(sed -n "${number}p" "$dir/new.log")"; done
	number=$first
	if ((first < old)); then number="$first to $old"; fi
	if ((first <= old)); then note "($number twice: the old process had gone on when containerd copied its log)"; fi
	count=$last
}

has_new_lines() {
	tail -c +$(($2 + 1)) "$1" >"$dir/new.log"
	(($(numbers "$dir/new.log" | wc -l) >= 3))
}
