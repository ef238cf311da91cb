//go:build race

package verify

// slower is how many times more time of processors the race detector takes, at most.
const slower = 10
