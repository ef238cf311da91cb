package restore

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
)

func TestCRILog(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 5, time.FixedZone("", 3600))
	const cri = "2026-11-23T08:32:34.424901002+00:00 stdout F count 1\n2026-11-23T08:32:35Z stderr P half"
	long := strings.Repeat("x", maxLogLine)
	for name, c := range map[string]struct{ in, out string }{
		"CRI format":           {cri, cri},
		"CRI format by line 1": {"2026-11-23T08:32:35Z stdout F a\nnot so\n", "2026-11-23T08:32:35Z stdout F a\nnot so\n"},
		"empty":                {"", ""},
		"json-file": {
			`{"log":"count 1\n","stream":"stdout","time":"2026-11-23T08:32:34.4Z"}` + "\n" +
				`{"log":"half","stream":"stderr","time":"2026-11-23T08:32:35Z"}` + "\n",
			"2026-11-23T08:32:34.4Z stdout F count 1\n2026-11-23T08:32:35Z stderr P half\n",
		},
		"json-file, two lines in one": {`{"log":"a\nb\n"}`,
			"2026-11-23T08:00:00.000000005Z stdout F a\n2026-11-23T08:00:00.000000005Z stdout F b\n"},
		"raw": {"a\n\n{b\n", "2026-11-23T08:00:00.000000005Z stdout F " +
			"a\n2026-11-23T08:00:00.000000005Z stdout F \n2026-11-23T08:00:00.000000005Z stdout F {b\n"},
		"no stream": {"2026-11-23T08:32:35Z x F a\n",
			"2026-11-23T08:00:00.000000005Z stdout F 2026-11-23T08:32:35Z x F a\n"},
		"no line feed": {"a", "2026-11-23T08:00:00.000000005Z stdout F a\n"},
		"long, cut": {long, "2026-11-23T08:00:00.000000005Z stdout P " + long +
			"\n2026-11-23T08:00:00.000000005Z stdout F \n"},
		"long": {long + "y\n", "2026-11-23T08:00:00.000000005Z stdout P " + long +
			"\n2026-11-23T08:00:00.000000005Z stdout F y\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{"whole": strings.NewReader(c.in),
				"bytewise": iotest.OneByteReader(strings.NewReader(c.in))} {
				got, err := io.ReadAll(criLog(r, at, 1<<20))
				check(t, err)
				if string(got) != c.out {
					t.Errorf("%s: got %.300q, want %.300q", how, got, c.out)
				}
			}
		})
	}
	if got, err := io.ReadAll(criLog(strings.NewReader("a"), time.Time{}, 1<<20)); err != nil ||
		string(got) != "1970-01-01T00:00:00Z stdout F a\n" {
		t.Errorf("unknown time: %q, %v", got, err)
	}
	if _, err := io.ReadAll(criLog(io.MultiReader(strings.NewReader("raw\n"), iotest.ErrReader(io.ErrUnexpectedEOF)), at,
		1<<20)); err == nil {
		t.Error("an error is lost")
	}
	if _, err := io.ReadAll(criLog(strings.NewReader(strings.Repeat("\n", 1000)), at,
		1000)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a log that grows: %v", err)
	}
}

// FuzzCRILog: whatever is in a log, each line of the result can be read by the kubelet, and none is lost.
func FuzzCRILog(f *testing.F) {
	f.Add([]byte("raw\n\n{\"log\":\"a\\n\"}\n"))
	f.Add([]byte(`{"log":"a\nb","stream":"stderr","time":"2026-11-23T08:32:35Z"}`))
	f.Add([]byte("2026-11-23T08:32:35Z stdout F a\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(criLog(bytes.NewReader(in), time.Unix(1, 0), 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(in, out) {
			return
		}
		if len(in) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
			t.Errorf("%q does not end with a line feed", out)
		}
		lines := bytes.Split(bytes.TrimSuffix(out, []byte("\n")), []byte("\n"))
		for _, line := range lines {
			if !isCRILine(line) {
				t.Errorf("line %q", line)
			}
		}
		if n := bytes.Count(bytes.TrimSuffix(in, []byte("\n")), []byte("\n")) + 1; len(lines) < n {
			t.Errorf("%d lines became %d", n, len(lines))
		}
	})
}
