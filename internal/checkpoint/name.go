package checkpoint

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// maxName is the length of an entry's name in an archive, in bytes. The longest
// honest names are those of Podman's volumes/<name>.tar.
const maxName = 1024

// maxPath is the kernel's PATH_MAX, without the terminating NUL.
const maxPath = 4095

// entryName cleans the name of an archive's entry. A leading "./", as GNU tar
// writes it, and a directory's trailing "/" are taken off; beyond that the name
// must be clean already, so that every reader of the archive agrees on what it
// means. The error is of class errdefs.ErrInvalidArgument.
func entryName(name string, dir bool) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("entry %s: %s: %w", quote(name), why, errdefs.ErrInvalidArgument)
	}
	clean := name
	if dir {
		clean = strings.TrimSuffix(clean, "/")
	}
	if clean != "." {
		clean = strings.TrimPrefix(clean, "./")
	}
	switch {
	case clean == "":
		return bad("empty name")
	case len(name) > maxName:
		return bad(fmt.Sprintf("name of %d bytes, at most %d are allowed", len(name), maxName))
	case strings.HasPrefix(clean, "/"):
		return bad("absolute name")
	case hasDotDot(clean):
		return bad(`name with ".."`)
	case strings.ContainsRune(clean, '\\'):
		return bad("name with a backslash")
	case !utf8.ValidString(clean) || strings.ContainsFunc(clean, unicode.IsControl):
		return bad("name with control characters")
	case path.Clean(clean) != clean, name == "./.", name == "././":
		return bad(fmt.Sprintf("name is not clean, which would be %s", quote(path.Clean(clean))))
	case clean == "." && !dir:
		return bad("no file name")
	}
	depth := strings.Count(clean, "/")
	if dir {
		depth++
	}
	if depth > maxDepth {
		return "", tooDeep(name)
	}
	return clean, nil
}

// checkDeleted checks a path of deleted.files.
func checkDeleted(name string) error {
	bad := func(why string) error { return fmt.Errorf("%s: %w", why, errdefs.ErrInvalidArgument) }
	switch {
	case !strings.HasPrefix(name, "/"):
		return bad("not an absolute path")
	case len(name) > maxPath:
		return bad("longer than a path can be")
	case strings.ContainsRune(name, 0):
		return bad("path with NUL")
	case hasDotDot(name):
		return bad(`path with ".."`)
	case path.Clean(name) == "/":
		return bad("the root directory cannot have been deleted")
	}
	return nil
}

func hasDotDot(name string) bool {
	for elem := range strings.SplitSeq(name, "/") {
		if elem == ".." {
			return true
		}
	}
	return false
}
