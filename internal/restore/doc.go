// Package restore is one restore of a container, from the record that says
// what is to be restored to the running process, and its clean-up.
//
// The record is kept on the container in containerd's metadata store, so that
// nothing of a restore lives in this process only. Directories are named by
// the restore's ID, which the record holds.
package restore
