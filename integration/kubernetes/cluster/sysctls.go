package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlFile has what the parameters were before the first kubelet of all tests that run now. Everybody whose kubelet
// runs holds a lock on it.
const sysctlFile = "cri-restore-test-sysctls"

// sysctls are those parameters of the kernel that a kubelet sets (kubernetes: pkg/kubelet/cm, setupKernelTunables).
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// rememberSysctls returns what puts the parameters back, unless another test's kubelet still runs, which then does it.
func rememberSysctls() (restore func() error, err error) {
	f, err := lockSysctls()
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	data, err := io.ReadAll(f)
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &values)
	} else if err == nil {
		for _, name := range sysctls {
			value, rerr := os.ReadFile(filepath.Join("/proc/sys", name))
			if err = errors.Join(err, rerr); rerr == nil {
				values[name] = strings.TrimSpace(string(value))
			}
		}
		if err == nil {
			err = json.NewEncoder(f).Encode(values)
		}
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("remember kernel parameters in %s: %w", f.Name(), err), f.Close())
	}
	return func() error {
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		} else if err != nil {
			return err
		}
		var errs []error
		for name, value := range values {
			file := filepath.Join("/proc/sys", name)
			if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == value {
				continue
			}
			errs = append(errs, os.WriteFile(file, []byte(value), 0))
		}
		return errors.Join(append(errs, os.Remove(f.Name()))...)
	}, nil
}

// lockSysctls opens and locks the file. One that was removed meanwhile is nobody's.
func lockSysctls() (*os.File, error) {
	name := filepath.Join(os.TempDir(), sysctlFile)
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		there, err := os.Stat(name)
		if err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}
