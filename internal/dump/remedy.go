package dump

import (
	"slices"
	"strings"
)

// remedies are what can be done where CRIU cannot dump something, by its own words.
var remedies = []struct{ words, remedy string }{
	// Linux: IPPROTO_MPTCP. CRIU: criu/sk-inet.c, can_dump_ipproto.
	{"Unsupported proto 262", "its program uses Multipath TCP, as servers written in Go do by default: create the pod " +
		"again on a node with disable_mptcp = true, which is the default, or set GODEBUG=multipathtcp=0 in its environment"},
}

// remedy returns what can be done about the first of CRIU's error lines of which that is known, empty if none is.
func remedy(lines []string) string {
	for _, r := range remedies {
		if slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, r.words) }) {
			return r.remedy
		}
	}
	return ""
}
