//go:build !cri_restore_test

package cri

// unverified says whether a container is restored whatever the verification finds. It never is: only a containerd that
// was built with the tag cri_restore_test can be told so, for the tests of what stands behind the verification.
func unverified() bool { return false }
