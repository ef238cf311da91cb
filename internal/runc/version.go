// Package runc is the runc binary of a runtime handler: which file it is, and its version.
package runc

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"

	"github.com/containerd/errdefs"
)

// Version is a version of runc.
type Version struct {
	Major, Minor, Patch int
	// Candidate is the number of a release candidate, 0 for a release.
	Candidate int
}

// fixed are the versions from which on a line of runc names a mount to CRIU so that a link in the root file system
// cannot make it another one (CVE-2026-119101; runc: CHANGELOG.md). Lines after the last have been fixed from their
// first release on.
var fixed = []Version{{Major: 1, Minor: 4, Patch: 4}, {Major: 1, Minor: 5, Patch: 3},
	{Major: 1, Minor: 6, Candidate: 2}}

// Needed says in words which versions can be used.
const Needed = "1.4.4 or newer, of 1.5 1.5.3 or newer"

func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Candidate > 0 {
		s += fmt.Sprintf("-rc.%d", v.Candidate)
	}
	return s
}

func (v Version) compare(o Version) int {
	rank := func(v Version) int { // a candidate comes before its release
		if v.Candidate == 0 {
			return 1 << 30
		}
		return v.Candidate
	}
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch),
		cmp.Compare(rank(v), rank(o)))
}

// Usable reports whether a checkpoint can be restored with this version.
func (v Version) Usable() bool {
	for _, from := range fixed {
		if v.Major == from.Major && v.Minor == from.Minor {
			return v.compare(from) >= 0
		}
	}
	return v.compare(fixed[len(fixed)-1]) > 0
}

// What follows the numbers is a distribution's, "+dev" or a candidate's. Wrappers print their own version first and
// then that of the runc which they start.
var versionLine = regexp.MustCompile(`(?m)^runc version v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:-rc\.?(\d{1,4}))?`)

func parseVersion(out []byte) (Version, error) {
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("no version of runc in its output %.200q: %w", out, errdefs.ErrFailedPrecondition)
	}
	var n [4]int
	for i := range n {
		if len(m[i+1]) == 0 {
			continue
		}
		var err error
		if n[i], err = strconv.Atoi(string(m[i+1])); err != nil {
			return Version{}, err
		}
	}
	return Version{Major: n[0], Minor: n[1], Patch: n[2], Candidate: n[3]}, nil
}
