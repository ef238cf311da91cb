#!/usr/bin/env bash
# Prints the version of this tree. Its number is that of the first heading of docs/CHANGELOG.md, and nowhere else:
#
#   ## 0.1.0 (unreleased)     0.1.0-dev.COMMIT, with .dirty behind it if files of the tree were changed
#   ## 0.1.0 (2026-12-31)     0.1.0 in the commit that the tag v0.1.0 names and where there is no git; else 0.1.0-dev.COMMIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

heading=$(grep -m 1 '^## ' docs/CHANGELOG.md)
if ! [[ $heading =~ ^'## '([0-9]+\.[0-9]+\.[0-9]+)' ('(unreleased|[0-9]{4}-[0-9]{2}-[0-9]{2})')'$ ]]; then
	echo "version.sh: the first heading of docs/CHANGELOG.md is \"$heading\", not \"## NUMBER (unreleased)\" or \"## NUMBER (DATE)\"" >&2
	exit 1
fi
number=${BASH_REMATCH[1]} released=${BASH_REMATCH[2]}

if ! commit=$(git rev-parse --short=7 HEAD 2>/dev/null); then
	[ "$released" != unreleased ] || number+=-dev
	echo "$number"
	exit
fi
changed=$(git status --porcelain --untracked-files=no)
if [ "$released" != unreleased ] && [ -z "$changed" ] && git tag --points-at HEAD | grep -qx "v$number"; then
	echo "$number"
else
	echo "$number-dev.$commit${changed:+.dirty}"
fi
