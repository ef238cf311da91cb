// Package grant is what an OCI spec grants a container, computed from the spec alone: the rules that the verification
// of a checkpoint and the inspection of what came back have in common.
package grant
