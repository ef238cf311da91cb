// Package pageserver is the page server of a lazy restore: "criu lazy-pages", which brings
// the memory of a container whose processes run already, and the supervisor around it.
//
// If a page server ends too early the kernel answers accesses to missing memory with zeros: it
// releases the userfaultfd with its last descriptor. So the supervisor, a small program of
// its own, traces CRIU: at the beginning of its exit, when all descriptors are still
// open, CRIU is held until the supervisor has killed every process of the container. That
// works for a crash, a read error and SIGKILL alike, and for processes that were forked meanwhile.
//
// The supervisor is in a session of its own and needs nobody: it outlives containerd. It
// holds a POSIX lock on a file in the restore's work directory, of which the kernel knows the
// owner. So it is found again, however PIDs are reused. What became of the page server is in
// another file, written before the container is killed.
package pageserver
