#!/bin/bash
# Runs the fuzz targets, one after the other, for FUZZTIME each (default 10m).
# Usage: contrib/fuzz.sh [PACKAGE:TARGET ...]
set -euo pipefail
cd "$(dirname "$0")/.."

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
	while IFS=: read -r file name; do
		targets+=("$(basename "$(dirname "$file")"):$name")
	done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z]+' internal | sed 's/func //' | sort)
fi
for target in "${targets[@]}"; do
	# Minimizing every new input for a minute, as is the default, leaves no time for finding any.
	out=$(go test -run '^$' -fuzz "^${target#*:}\$" -fuzztime "${FUZZTIME:-10m}" -fuzzminimizetime 50x -parallel 1 \
		"./internal/${target%:*}" 2>&1) || { echo "$out"; echo "fuzz: $target: FAIL"; exit 1; }
	echo "fuzz: $target: $(grep -o 'elapsed: [^,]*, execs: [0-9]*' <<<"$out" | tail -n 1)"
done
