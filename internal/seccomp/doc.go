// Package seccomp says what a seccomp filter lets through that an OCI profile does not.
//
// The two are compared by what they mean, not by their bytes: filters of the same profile
// differ with the version of libseccomp, the runtime and the engine that made them. The
// filter, a program of classic BPF, is followed along every way that a system call can take
// through it, with what is known of the call's words on that way. The profile is what the
// runtime would have made of it: rules by name, resolved for each ABI of the machine.
//
// The comparison is exact for architectures and system call numbers, unknown ones included. For arguments it
// is safe: a way counts as taken unless the conditions on it are shown to exclude each other.
package seccomp
