package seccomp

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseRefuses(t *testing.T) {
	end := ret(retAllow)
	for what, tc := range map[string]struct {
		raw []byte
		say string
	}{
		"nothing":          {nil, "no array"},
		"half":             {raw(end)[:7], "no array"},
		"more than a half": {append(raw(end), 1), "no array"},
		"too long":         {raw(make([]instruction, unix.BPF_MAXINSNS+1)...), "no array"},
		"no return":        {raw(load(0)), "end with a return"},
		"odd offset":       {raw(instruction{op: 0x20, k: 2}, end), "has no word"},
		"behind the call":  {raw(instruction{op: 0x20, k: 64}, end), "has no word"},
		"a byte":           {raw(instruction{op: 0x30, k: 0}, end), "none that seccomp knows"},
		"indirect":         {raw(instruction{op: 0x40, k: 0}, end), "none that seccomp knows"},
		"modulo":           {raw(instruction{op: 0x94, k: 3}, end), "none that seccomp knows"},
		"no code":          {raw(instruction{op: 0xffff}, end), "none that seccomp knows"},
		"jump out":         {raw(instruction{op: 0x05, k: 1}, end), "jumps out"},
		"jump around":      {raw(instruction{op: 0x05, k: allBits}, end), "jumps out"},
		"jump out if":      {raw(equal(0, 1, 0), end), "jumps out"},
		"jump out if not":  {raw(equal(0, 0, 1), end), "jumps out"},
		"division":         {raw(instruction{op: 0x34}, end), "divides by zero"},
		"shift":            {raw(instruction{op: 0x64, k: 32}, end), "shifts"},
		"scratch":          {raw(instruction{op: 0x02, k: 16}, end), "does not exist"},
		"unwritten":        {raw(instruction{op: 0x60, k: 3}, end), "was not written"},
		"unwritten one way": {raw(equal(0, 1, 0), instruction{op: 0x02, k: 3}, instruction{op: 0x60, k: 3}, end),
			"was not written"},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := Parse(tc.raw); err == nil || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("error %v, want %q", err, tc.say)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	end := ret(retAllow)
	for what, code := range map[string][]instruction{
		"shortest": {end}, "longest": make([]instruction, unix.BPF_MAXINSNS), "returns a value": {load(0), {op: 0x16}},
		"last word": {load(15), end}, "scratch": {{op: 0x02, k: 15}, {op: 0x60, k: 15}, end},
		"scratch both ways": {equal(0, 2, 0), {op: 0x02, k: 3}, {op: 0x05, k: 1}, {op: 0x02, k: 3}, {op: 0x60, k: 3}, end},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "longest" {
				for i := range code {
					code[i] = end
				}
			}
			if p, err := Parse(raw(code...)); err != nil || p.Len() != len(code) {
				t.Errorf("error %v", err)
			}
		})
	}
}
