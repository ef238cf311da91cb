# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: one line per step, and what
# is said when one fails. Uses dir of its caller and node.sh.

step=0
step_title='set-up'
step_started=0
step_open=false
notes=()
out='' # what the last call printed, or the message with which it was refused

chapter() { printf '\n%s\n' "$*"; }

# begin opens a step. A step whose commands all succeed is closed by ok.
begin() {
	step=$((step + 1))
	step_title=$*
	step_started=${EPOCHREALTIME/./}
	notes=()
	printf '[%2d] %s ... ' "$step" "$step_title"
	step_open=true
}

# note adds lines that are shown below the step when it is done.
note() { notes+=("$@"); }

ok() {
	local line tenths=$(((${EPOCHREALTIME/./} - step_started + 50000) / 100000))
	printf 'ok (%d.%d s)\n' $((tenths / 10)) $((tenths % 10))
	step_open=false
	for line in "${notes[@]}"; do printf '       %s\n' "$line"; done
}

# fail ends the script. The clean-up is the caller's trap on EXIT.
fail() {
	trap - ERR
	outcome=failed
	if $step_open; then echo failed; fi
	{
		if [ -s "$dir/log/containerd.log" ]; then
			echo "containerd's log ends with:"
			tail -n 20 "$dir/log/containerd.log" | sed 's/^/    /'
			echo "all of it, and the logs of the containers: $dir/log"
		fi
		if [ -n "$containerd_pid" ] && ! running "$containerd_pid"; then echo 'containerd does not run any more'; fi
		printf 'FAIL: %s: %s\n' "$step_title" "$*"
	} >&2
	exit 1
}

# unexpected is for the trap on ERR: a command failed that nobody looks at.
unexpected() {
	local status=$1 file=$2 line=$3 command=$4
	((BASH_SUBSHELL == 0)) || exit "$status" # the main shell reports
	fail "$file line $line: exit code $status from: $command"
}

# call runs a command that must succeed, and leaves what it printed in $out.
call() {
	local status=0
	out=$("$@" 2>"$dir/stderr") || status=$?
	((status == 0)) || fail "${1##*/} ${2:-}: exit code $status: $(message)"
}

# refused runs a command that must fail, and leaves its message in $out.
refused() {
	if out=$("$@" 2>"$dir/stderr"); then
		fail "${1##*/} ${2:-} succeeded, but had to be refused"
	fi
	out=$(message)
}

# message prints the error of the last command: crictl's is the msg of its last
# line, which is in the format of logrus.
message() {
	tail -n 1 "$dir/stderr" | sed -E 's/^time="[^"]*" level=[a-z]+ msg="(.*)"$/\1/; s/^FATA\[[0-9]+\] *//; s/\\"/"/g; s/\\n/; /g'
}

# same WHAT GOT WANT
same() { [ "$2" = "$3" ] || fail "$1 is \"$2\", expected \"$3\""; }

# says WORD...: the message in $out has each of them.
says() {
	local word
	for word in "$@"; do
		[[ $out == *"$word"* ]] || fail "the message does not say \"$word\": $out"
	done
}

# first_line notes what a refused command said.
first_line() {
	local line
	while IFS= read -r line; do note "| $line"; done < <(head -n 1 <<<"$out" | fold -s -w 100 | sed 's/ *$//')
}

# wait_for SECONDS COMMAND...: until COMMAND is true. A shell can only look again.
wait_for() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		((SECONDS < deadline)) || return 1
		sleep 0.05
	done
}
