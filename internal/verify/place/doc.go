// Package place answers one question: where in the new container is the path that a CRIU image names? It knows what is
// mounted where in the end, and which symbolic links there are on the way.
package place
