package verify

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestThisProcess reads the real thing.
func TestThisProcess(t *testing.T) {
	own, err := thisProcess()
	if err != nil {
		t.Fatal(err)
	}
	if own.hard[7] == 0 || own.permitted&^own.bounding != 0 {
		t.Errorf("this process: %+v", own)
	}
}

func TestGranted(t *testing.T) {
	own := inherited{bounding: allCapabilities, permitted: allCapabilities, inheritable: netRaw}
	names := func(c capabilities) []string { return strings.Split(c.String(), ", ") }
	for name, c := range map[string]struct {
		process                         specs.Process
		permitted, reachable, inherited capabilities
	}{
		// Without sets runc changes nothing.
		"root without sets":                            {specs.Process{}, allCapabilities, allCapabilities, allCapabilities},
		"user without sets":                            {specs.Process{User: specs.User{UID: 1}}, 0, allCapabilities, allCapabilities},
		"user without sets and without new privileges": {specs.Process{User: specs.User{UID: 1}, NoNewPrivileges: true}, 0, 0, netRaw},
		// The kernel makes the permitted set of root of the other two.
		"root": {specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: names(chown), Inheritable: names(netRaw)}}, chown | netRaw, chown | netRaw, chown | netRaw},
		// But not if there may be no new ones.
		"root without new privileges": {specs.Process{NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{
			Bounding: names(chown | netRaw), Permitted: names(chown)}}, chown, chown, chown},
		"root that may set any inheritable": {specs.Process{NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{
			Bounding: names(capSetPCap | netRaw), Permitted: names(capSetPCap)}}, capSetPCap, capSetPCap, capSetPCap | netRaw},
		// An ambient one has to be permitted and inheritable.
		"user": {specs.Process{User: specs.User{UID: 1}, Capabilities: &specs.LinuxCapabilities{Bounding: names(chown | netRaw),
			Permitted: names(chown | netRaw), Inheritable: names(chown), Ambient: names(chown | netRaw)}}, chown, chown | netRaw, chown | netRaw},
		"user without new privileges": {specs.Process{User: specs.User{UID: 1}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Bounding: names(chown | netRaw),
			Permitted: names(chown | netRaw), Inheritable: names(chown), Ambient: names(chown | netRaw)}}, chown, chown, chown},
		"a capability that nobody knows": {specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NEW", "chown"}}}, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := grantedBy(&c.process, own)
			if g.permitted != c.permitted || g.reachable != c.reachable || g.reachableInheritable() != c.inherited {
				t.Errorf("permitted %s, reachable %s, inheritable %s", g.permitted, g.reachable, g.reachableInheritable())
			}
		})
	}
}
