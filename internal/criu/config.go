package criu

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// Option is an option of CRIU's command line, as its configuration file has it.
type Option struct {
	Name  string // without the leading "--"
	Value string // "" for none
}

var optionName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// ConfigFile renders a CRIU configuration file (criu(8), "CONFIGURATION
// FILES"). base is the node's own file and may be empty; it is kept as it is.
// The options come after it, because of options that are given twice CRIU
// takes the last. (Those that CRIU collects, such as external, add up.)
//
// An option becomes one word, name=value: an optional value, such as that of
// manage-cgroups, is only seen in this form. CRIU's quoting differs between
// versions, so values that would need it are refused. The error is of class
// errdefs.ErrInvalidArgument.
func ConfigFile(base []byte, options []Option) ([]byte, error) {
	if bytes.IndexByte(base, 0) >= 0 {
		return nil, fmt.Errorf("the node's criu configuration file has a NUL: %w", errdefs.ErrInvalidArgument)
	}
	var out bytes.Buffer
	out.Write(base)
	if len(base) > 0 && base[len(base)-1] != '\n' {
		out.WriteByte('\n')
	}
	for _, o := range options {
		if !optionName.MatchString(o.Name) {
			return nil, fmt.Errorf("criu option %q: not the name of a long option: %w", clip(o.Name, 200),
				errdefs.ErrInvalidArgument)
		}
		if i := strings.IndexFunc(o.Value, unsafe); i >= 0 {
			return nil, fmt.Errorf("criu option %s: value %q: a criu configuration file cannot hold the character %q: %w",
				o.Name, clip(o.Value, 200), o.Value[i], errdefs.ErrInvalidArgument)
		}
		out.WriteString(o.Name)
		if o.Value != "" {
			out.WriteByte('=')
			out.WriteString(o.Value)
		}
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// unsafe reports whether CRIU's parser may read a character as something else:
// the end of a word or line, a comment, a quote, an escape.
func unsafe(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar || strings.ContainsRune(`#"'\`, r)
}
