// Package fields is a table of every field of every image of CRIU's that a checkpoint may bring, and of what becomes
// of it before CRIU reads it. Package verify is the code, this is what it is held against: a test there walks
// go-criu's descriptors and fails when a message or a field has no row here, when a row has no field, and when it
// names a check that does not exist or does not look at the field. So neither a new CRIU nor a new go-criu brings a
// field in silence.
package fields

import "strings"

// Verdict is what becomes of a field.
type Verdict string

const (
	// Judged says that a check refuses a value that would be more than the pod was granted, or no value that CRIU
	// writes.
	Judged Verdict = "judged"
	// Forced says that CRIU reads the value of the pod, whatever the checkpoint has.
	Forced Verdict = "forced"
	// Free says that any value is accepted, because none gives a process what it could not give itself, or because CRIU
	// does not
	// read it.
	Free Verdict = "free"
)

// Row is what becomes of some fields of a message.
type Row struct {
	// Names are the fields, by their names in CRIU's images/*.proto.
	Names []string
	Verdict
	// By are the functions that judge or force: of package verify, or with the name of another package below internal
	// and a dot before it. Methods go by their own name.
	By []string
	// AsWhole says that they look at the message, or at all fields of it, and name none.
	AsWhole bool
	// Why is the reason, for what is free. CRIU's files are those of version 4.2.
	Why string
}

// Message is a message of CRIU's.
type Message struct {
	Name string
	Rows []Row
}

// Image is a kind of images: one file, or all those with a number behind the name.
type Image struct {
	// Name is the file, or what is before the number in it.
	Name string
	// Messages are those of its entries, space separated. An image without any is no sequence of entries.
	Messages string
	// By are the functions that check it, and Why says what it is, if it has no messages.
	By, Why string
}

// Table returns all messages.
func Table() []Message {
	var all []Message
	for _, topic := range [][]Message{inventory, processes, registers, memory, mounts, namespaces, ipc, files,
		otherFiles, sockets, otherSockets} {
		all = append(all, topic...)
	}
	return all
}

func judged(names, by string) Row {
	return Row{Names: strings.Fields(names), Verdict: Judged, By: strings.Fields(by)}
}

func forced(names, by string) Row {
	return Row{Names: strings.Fields(names), Verdict: Forced, By: strings.Fields(by)}
}

func free(names, why string) Row {
	return Row{Names: strings.Fields(names), Verdict: Free, Why: why}
}

// whole is a row of checks that name no field.
func whole(r Row) Row {
	r.AsWhole = true
	return r
}

// because adds a reason to a row.
func because(r Row, why string) Row {
	r.Why = why
	return r
}
