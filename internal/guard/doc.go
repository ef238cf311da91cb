// Package guard is the program restore-guard: CRIU runs it as its action script while it restores a container (criu(8), "--action-script"),
// at stages at which the container's processes are there and have not run yet.
//
// It is what stands behind the verification of a checkpoint. CRIU resolves paths as root, so its images have every
// mount but procfs with nosymfollow (internal/verify): no link in a root file system or in a volume leads CRIU anywhere. The guard
// takes the flag back before the first process runs.
//
// CRIU gives its script nothing but an environment. What the guard has to know of a restore is in a
// directory of that restore, of which CRIU executes the program by a link (see [Arm]).
package guard
