//go:build !race

package verify

// slower is how many times more time of processors the tests take than the plain program.
const slower = 1
