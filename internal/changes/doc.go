// Package changes is what a container has changed in its root file system, as a tar with whiteouts.
//
// It is read while others can change it: another container of the pod reaches the root file system through
// /proc/PID/root. So nothing is opened by a path of more than one element, no link is followed, and nothing is opened
// before it is known to be a regular file or a directory.
package changes
