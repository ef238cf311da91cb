// Package image is the checkpoint image: how it is recognised among ordinary
// images, viewed without a copy, and built from a checkpoint archive; and the
// base image that a checkpoint needs, with its pull.
//
// A checkpoint image is an OCI image of one layer, which holds the unpacked
// checkpoint archive, and annotations that say so. An annotation is a hint from
// whoever made the image: it never decides more than whether to look inside,
// which package checkpoint does.
package image
