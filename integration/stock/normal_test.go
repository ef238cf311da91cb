package stock

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// What differs from one containerd to the next in every text, and what stands for it.
var differing = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(Z|[+-]\d\d:\d\d| \+0000 UTC)?`), "<time>"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+/(\w+)/[\w-]+`), "<stream $1>"},
	{regexp.MustCompile(`/proc/\d+`), "/proc/<pid>"},
	{regexp.MustCompile(`\b(pid|process|PID) \d+`), "$1 <pid>"},
	{regexp.MustCompile(`(veth|cni-)[0-9a-f-]+`), "<link>"},
	{regexp.MustCompile(`\b10\.\d+\.\d+\.\d+\b`), "<address>"},
	{regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}`), "<mac>"},
	{regexp.MustCompile(`containerd-mount\d+`), "<mount>"},
	{regexp.MustCompile(`crt-\d+`), "<node>"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ns|µs|ms|s)\b`), "<duration>"},
	{regexp.MustCompile(`usage: \d+`), "usage: <bytes>"},
	{regexp.MustCompile(` +`), " "}, // protobuf's text has one or two, by chance
}

// Numbers of which it only counts whether they are there: measurements, moments and processes.
var measured = regexp.MustCompile(`(?i)(At|Bytes|Nanos?|NanoCores|Seconds|timestamp|pid|value|inodesUsed|faults|count|avg\d+|total|threads|size)$`)

// Lists whose order means something.
var inOrder = []string{"args", "command", "env", "cmd"}

// normal makes a side's answer to something that can be compared with the other's.
func (s *side) normal(m proto.Message, err error) string {
	if err != nil {
		st := status.Convert(err)
		if st.Code() == codes.DeadlineExceeded {
			return st.Code().String()
		}
		lines := strings.Split(s.text(st.Message()), "\n")
		slices.Sort(lines) // errors that were joined in the order of a map
		return st.Code().String() + ": " + strings.Join(lines, "\n")
	}
	data, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err.Error()
	}
	return "OK " + canonical(s.value("", v))
}

func canonical(v any) string {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// text replaces what is this side's own: IDs by the names that the sequence has for them, paths, and what is chance.
func (s *side) text(text string) string {
	s.mu.Lock()
	for _, known := range s.known {
		for _, length := range []int{64, prefix, 16, 12} {
			text = strings.ReplaceAll(text, known.id[:length], "<"+known.handle+">")
		}
	}
	s.mu.Unlock()
	text = strings.ReplaceAll(text, filepath.Dir(s.node.Dir()), "<dir>")
	text = unknownID.ReplaceAllStringFunc(text, func(id string) string {
		if strings.HasPrefix(id, "sha256:") {
			return id
		}
		return "<id>"
	})
	for _, d := range differing {
		text = d.pattern.ReplaceAllString(text, d.word)
	}
	return text
}

var unknownID = regexp.MustCompile(`(sha256:)?\b[0-9a-f]{64}\b`)

// value is text for all that JSON can hold. key is what it is the value of.
func (s *side) value(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[s.text(k)] = s.value(k, e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = s.value(key, e)
		}
		if !slices.Contains(inOrder, key) {
			slices.SortFunc(out, func(a, b any) int { return strings.Compare(canonical(a), canonical(b)) })
		}
		return out
	case string:
		var inner any
		if strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
			return s.value(key, inner) // of verbose answers
		}
		if measured.MatchString(key) && strings.Trim(v, "-.0123456789") == "" {
			return "<number>"
		}
		return s.text(v)
	case float64:
		if measured.MatchString(key) {
			return "<number>"
		}
	}
	return v
}

// difference shows where two answers begin to differ.
func difference(ours, stock string) string {
	a, b := strings.Split(ours, "\n"), strings.Split(stock, "\n")
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	part := func(lines []string) string {
		text := strings.Join(lines[max(0, i-3):min(len(lines), i+6)], "\n")
		return text[:min(len(text), 1200)]
	}
	return fmt.Sprintf("ours, line %d:\n%s\nstock:\n%s", i, part(a), part(b))
}
