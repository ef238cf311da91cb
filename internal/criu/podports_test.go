package criu

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestFirstUnprivilegedPort(t *testing.T) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		t.Fatal(err)
	}
	want, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := FirstUnprivilegedPort("/proc/self/ns/net"); got != want || err != nil {
		t.Errorf("got %d and error %v, want %d", got, err, want)
	}
	for _, path := range []string{"/proc/self/ns/none", "/proc/self/ns/uts"} {
		if _, err := FirstUnprivilegedPort(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", path, err)
		}
	}
}
