// Package dump takes one checkpoint of a running container: it freezes the
// container, lets CRIU write its images where they are to stay, reads what the
// container has changed in its root file system, and lets it run on. Whatever
// happens meanwhile, the container runs on and nothing is left.
package dump
