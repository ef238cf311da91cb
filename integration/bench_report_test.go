package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// benchSample is one measurement. Durations are in nanoseconds, and count from the beginning of the creation, except
// Create, Start and Frozen, which are lengths. What was not measured is 0.
type benchSample struct {
	Create  time.Duration `json:"create,omitempty"` // of the call; of several containers until the last was created
	Start   time.Duration `json:"start,omitempty"`  // from then until the last was started; or of a checkpoint
	Line    time.Duration `json:"first_line,omitempty"`
	Drained time.Duration `json:"drained,omitempty"` // until all memory was there, of lazy restores
	Frozen  time.Duration `json:"frozen,omitempty"`
	// Read and Written are the bytes that passed through the read and write calls of containerd, shim, runc, CRIU and the
	// restored process.
	Read    int64 `json:"read,omitempty"`
	Written int64 `json:"written,omitempty"`
}

// both is what a caller waits for.
func (s benchSample) both() time.Duration { return s.Create + s.Start }

// benchRow is one line of the table, and one record of the results.
type benchRow struct {
	Benchmark  string        `json:"benchmark"`
	Case       string        `json:"case"`
	MiB        int           `json:"mib,omitempty"`
	Containers int           `json:"containers"`
	Samples    []benchSample `json:"samples"`
	// Run measures once.
	Run func() benchSample `json:"-"`
}

// benchRows are the rows of all benchmarks of this run.
var benchRows []*benchRow

// takeTurns measures each row as often, in turns, so that what else happens on the machine meets them alike.
func takeTurns(b *testing.B, rows []*benchRow, rounds int) {
	b.Helper()
	for round := range rounds + 1 {
		for _, r := range rows {
			if s := r.Run(); round > 0 { // the first warms caches
				r.Samples = append(r.Samples, s)
			}
		}
	}
	benchRows = append(benchRows, rows...)
	for _, r := range rows {
		b.Run(strings.ReplaceAll(r.String(), " ", "_"), func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // not what was measured
			b.ReportMetric(milliseconds(r.median(benchSample.both)), "ms")
		})
	}
}

func (r *benchRow) String() string {
	name := r.Case
	if r.MiB > 0 {
		name = fmt.Sprintf("%d MiB %s", r.MiB, name)
	}
	if r.Containers > 1 {
		name += fmt.Sprintf(", %d at once", r.Containers)
	}
	return r.Benchmark + " " + name
}

func (r *benchRow) all(of func(benchSample) time.Duration) []time.Duration {
	var out []time.Duration
	for _, s := range r.Samples {
		out = append(out, of(s))
	}
	return out
}

func (r *benchRow) median(of func(benchSample) time.Duration) time.Duration { return median(r.all(of)) }

// rowOf finds a row of this run, nil if it was not measured.
func rowOf(benchmark, what string, mib, containers int) *benchRow {
	i := slices.IndexFunc(benchRows, func(r *benchRow) bool {
		return r.Benchmark == benchmark && r.Case == what && r.MiB == mib && r.Containers == containers
	})
	if i < 0 {
		return nil
	}
	return benchRows[i]
}

// benchReferences are the cases that the others of a benchmark are compared with.
var benchReferences = map[string][]string{
	"restore": {caseOld, caseRunc}, "checkpoint": {caseStock}, "ordinary": {caseStock},
}

const (
	caseStock = "stock 2.4"
	caseOld   = "2.3.7 image"
	caseRunc  = "runc alone"
	caseEager = "eager image"
	caseLazy  = "lazy image"
)

// printRows prints all rows as one table.
func printRows(w io.Writer, rows []*benchRow) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "medians, ms\tcreate\tstart\tboth\tmiddle half\tfirst line\tdrained\tfrozen\tread MiB\twritten "+
		"MiB\tratio\t\n")
	for _, r := range rows {
		ms := func(of func(benchSample) time.Duration) string {
			if d := r.median(of); d > 0 {
				return fmt.Sprintf("%.1f", milliseconds(d))
			}
			return "-"
		}
		mib := func(of func(benchSample) int64) string {
			if n := r.median(func(s benchSample) time.Duration { return time.Duration(of(s)) }); n > 0 {
				return fmt.Sprintf("%.1f", float64(n)/(1<<20))
			}
			return "-"
		}
		var ratios []string
		for _, name := range benchReferences[r.Benchmark] {
			if base := rowOf(r.Benchmark, name, r.MiB, r.Containers); base != nil && base != r {
				ratios = append(ratios, fmt.Sprintf("%.3f of %s",
					float64(r.median(benchSample.both))/float64(base.median(benchSample.both)), name))
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r,
			ms(func(s benchSample) time.Duration { return s.Create }), ms(func(s benchSample) time.Duration { return s.Start }),
			ms(benchSample.both), spread(r.all(benchSample.both)), ms(func(s benchSample) time.Duration { return s.Line }),
			ms(func(s benchSample) time.Duration { return s.Drained }),
			ms(func(s benchSample) time.Duration { return s.Frozen }), mib(func(s benchSample) int64 { return s.Read }),
			mib(func(s benchSample) int64 { return s.Written }), strings.Join(ratios, ", "))
	}
	return t.Flush()
}

// benchMachine says where the results come from.
type benchMachine struct {
	CPU        string    `json:"cpu"`
	Processors int       `json:"processors"`
	MemoryMiB  uint64    `json:"memory_mib"`
	Kernel     string    `json:"kernel"`
	Containerd string    `json:"containerd"`
	Runc       string    `json:"runc"`
	CRIU       string    `json:"criu"`
	At         time.Time `json:"at"`
}

func thisMachine(tools *harness.Tools) benchMachine {
	first := func(program string, args ...string) string {
		out, _ := exec.Command(program, args...).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	m := benchMachine{Processors: runtime.NumCPU(), At: time.Now().UTC().Truncate(time.Second),
		Containerd: first(filepath.Join(tools.Bin, "containerd"), "--version"),
		Runc:       first(filepath.Join(tools.Bin, "runc"), "--version"), CRIU: first(tools.CRIU, "--version")}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = info.Totalram * uint64(info.Unit) >> 20
	}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpus)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// TestMain prints what the benchmarks have measured as one table, and writes it as JSON to the file
// that BENCH_JSON names.
func TestMain(m *testing.M) {
	status := m.Run()
	if err := report(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func report() error {
	if len(benchRows) == 0 {
		return nil
	}
	if err := printRows(os.Stdout, benchRows); err != nil {
		return err
	}
	printGoals(os.Stdout)
	file := os.Getenv("BENCH_JSON")
	if file == "" {
		return nil
	}
	tools, err := harness.Find()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(struct {
		Machine benchMachine `json:"machine"`
		Rows    []*benchRow  `json:"rows"`
	}{thisMachine(tools), benchRows}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// printGoals compares the results with what they should be.
func printGoals(w io.Writer) {
	goal := func(what string, row, base *benchRow, factor float64, orWithin time.Duration) {
		if row == nil || base == nil {
			return
		}
		got, than := row.median(benchSample.both), base.median(benchSample.both)
		verdict := "missed"
		if float64(got) <= factor*float64(than) || orWithin > 0 && got <= than+orWithin {
			verdict = "met"
		}
		fmt.Fprintf(w, "goal %s: %.1f ms to %.1f ms, %.3f: %s\n", what, milliseconds(got), milliseconds(than),
			float64(got)/float64(than), verdict)
	}
	goal("ordinary containers within 2 % of stock", rowOf("ordinary", caseOurs, 0, 1), rowOf("ordinary", caseStock, 0, 1),
		1.02, 0)
	for _, mib := range benchMiB {
		goal(fmt.Sprintf("eager %d MiB within 10 %% or 100 ms of runc", mib), rowOf("restore", caseEager, mib, 1),
			rowOf("restore", caseRunc, mib, 1), 1.1, 100*time.Millisecond)
	}
	goal("lazy 1 GiB at most 1/10 of 2.3.7", rowOf("restore", caseLazy, 1024, 1), rowOf("restore", caseOld, 1024, 1),
		0.1, 0)
	goal("lazy 4 GiB within 1.3 of lazy 64 MiB", rowOf("restore", caseLazy, 4096, 1), rowOf("restore", caseLazy, 64, 1),
		1.3, 0)
	goal("checkpoint of 1 GiB at most 0.35 of stock", rowOf("checkpoint", caseArchive, 1024, 1),
		rowOf("checkpoint", caseStock, 1024, 1), 0.35, 0)
}
