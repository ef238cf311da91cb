package verify

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	file_lock "github.com/checkpoint-restore/go-criu/v7/crit/images/file-lock"
	criu_fs "github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	ipc_var "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-var"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pidns"
	pipe_data "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	sk_packet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/tty"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/utsns"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/fields"
)

// roots are the messages of the entries of images.
var roots = []proto.Message{
	&inventory.InventoryEntry{}, &pstree.PstreeEntry{}, &criu_core.CoreEntry{}, &criu_core.TaskKobjIdsEntry{},
	&seccomp.SeccompEntry{}, &mm.MmEntry{}, &pagemap.PagemapHead{}, &pagemap.PagemapEntry{}, &mnt.MntEntry{},
	&netdev.NetnsEntry{}, &pidns.PidnsEntry{}, &utsns.UtsnsEntry{}, &timens.TimensEntry{}, &cgroup.CgroupEntry{},
	&ipc_var.IpcVarEntry{}, &ipc_shm.IpcShmEntry{}, &ipc_msg.IpcMsgEntry{}, &ipc_msg.IpcMsg{}, &ipc_sem.IpcSemEntry{},
	&criu_fs.FsEntry{}, &fdinfo.FdinfoEntry{}, &fdinfo.FileEntry{}, &remap_file_path.RemapFilePathEntry{},
	&ghost_file.GhostFileEntry{}, &ghost_file.GhostChunkEntry{}, &file_lock.FileLockEntry{}, &pipe_data.PipeDataEntry{},
	&tty.TtyInfoEntry{}, &tty.TtyDataEntry{}, &memfd.MemfdInodeEntry{}, &sk_packet.SkPacketEntry{},
	&tcp_stream.TcpStreamEntry{},
}

// messagesOf returns the fields of a message, and of all that can be in it, by the name of the message.
func messagesOf(d protoreflect.MessageDescriptor, found map[string][]string) {
	name := string(d.Name())
	if _, ok := found[name]; ok {
		return
	}
	found[name] = nil
	for _, list := range []protoreflect.FieldDescriptors{d.Fields(), criu.LaterFields(d.Name())} {
		for i := 0; list != nil && i < list.Len(); i++ {
			f := list.Get(i)
			if !slices.Contains(found[name], string(f.Name())) {
				found[name] = append(found[name], string(f.Name()))
			}
			if f.Message() != nil {
				messagesOf(f.Message(), found)
			}
		}
	}
}

// TestFieldsImages holds the table of images against the names that are accepted, and its messages against go-criu's.
func TestFieldsImages(t *testing.T) {
	accepted := slices.Concat(slices.Collect(maps.Keys(fixedNames)), slices.Collect(maps.Keys(numberedNames)))
	var listed, messages []string
	for _, image := range fields.Images {
		listed = append(listed, image.Name)
		messages = append(messages, strings.Fields(image.Messages)...)
		if (image.Messages == "") != (image.Why != "") {
			t.Errorf("image %s has messages or a reason", image.Name)
		}
	}
	same(t, "image", accepted, listed)
	var known []string
	for _, m := range roots {
		known = append(known, string(m.ProtoReflect().Descriptor().Name()))
	}
	slices.Sort(messages)
	same(t, "message of an image", known, slices.Compact(messages))
}

// TestFields holds the table of fields against go-criu's descriptors and the fields that are newer than these.
func TestFields(t *testing.T) {
	found := map[string][]string{}
	for _, m := range roots {
		messagesOf(m.ProtoReflect().Descriptor(), found)
	}
	rows := map[string][]string{}
	for _, m := range fields.Table() {
		if _, twice := rows[m.Name]; twice {
			t.Errorf("message %s is listed twice", m.Name)
		}
		rows[m.Name] = nil
		for _, r := range m.Rows {
			rows[m.Name] = append(rows[m.Name], r.Names...)
			if r.Verdict == fields.Free && (r.Why == "" || len(r.By) > 0) {
				t.Errorf("%s of %s: what is free has a reason, and no check", r.Names, m.Name)
			}
			if r.Verdict != fields.Free && len(r.By) == 0 {
				t.Errorf("%s of %s: it is %s, and by no check", r.Names, m.Name, r.Verdict)
			}
		}
	}
	same(t, "message", slices.Collect(maps.Keys(found)), slices.Collect(maps.Keys(rows)))
	for name := range rows {
		same(t, "field of "+name, found[name], rows[name])
	}
}

// same compares what there is with what the table has.
func same(t *testing.T, what string, is, listed []string) {
	t.Helper()
	for i, name := range slices.Sorted(slices.Values(listed)) {
		if i > 0 && slices.Sorted(slices.Values(listed))[i-1] == name {
			t.Errorf("%s %s is in the table twice", what, name)
		}
		if !slices.Contains(is, name) {
			t.Errorf("%s %s is in the table and does not exist", what, name)
		}
	}
	for _, name := range is {
		if !slices.Contains(listed, name) {
			t.Errorf("%s %s has no row: say in package fields what becomes of it, and see that it is so", what, name)
		}
	}
}

// TestFieldsChecks looks for the checks in the source, and in them for the fields.
func TestFieldsChecks(t *testing.T) {
	sources := map[string]map[string]string{}
	source := func(by string) string {
		dir, name, ok := strings.Cut(by, ".")
		if !ok {
			dir, name = "verify", by
		}
		if sources[dir] == nil {
			sources[dir] = declarations(t, filepath.Join("..", dir))
		}
		return sources[dir][name]
	}
	for _, m := range fields.Table() {
		for _, r := range m.Rows {
			var text strings.Builder
			for _, by := range r.By {
				s := source(by)
				if s == "" {
					t.Errorf("%s of %s: there is no function %s", r.Names, m.Name, by)
				}
				text.WriteString(s)
			}
			for _, name := range r.Names {
				if r.Verdict != fields.Free && !r.AsWhole && !mentions(text.String(), name) {
					t.Errorf("%s of %s: %s say nothing of it", name, m.Name, r.By)
				}
			}
		}
	}
	for _, image := range fields.Images {
		if image.By != "" && source(image.By) == "" {
			t.Errorf("image %s: there is no function %s", image.Name, image.By)
		}
	}
}

// declarations returns the source of the functions, methods and variables of a directory and of those below it.
func declarations(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if dir := filepath.Base(filepath.Dir(name)); dir == "fields" {
			return err // the table itself
		}
		if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, 0)
		if err != nil {
			return err
		}
		add := func(id string, n ast.Node) {
			found[id] += string(text[set.Position(n.Pos()).Offset:set.Position(n.End()).Offset]) + "\n"
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				add(d.Name.Name, d)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
						add(v.Names[0].Name, v)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// laterNames are the constants in the source for the numbers of fields that go-criu does not know.
var laterNames = map[string]string{
	"plugins_entry": "inventoryPlugins", "dump_criu_run_id": "inventoryRunID", "allow_uprobes": "inventoryUprobes",
	"no_new_privs": "fieldNoNewPrivs", "cap_amb": "fieldCapAmb", "mode": "memfdMode",
	"compress": "inventoryCompress", "uid": "inetUID",
}

// mentions says whether a source names a field: in Go's form, or as a string.
func mentions(text, field string) bool {
	var camel strings.Builder
	for part := range strings.SplitSeq(field, "_") {
		camel.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	forms := []string{`\.(Get)?` + camel.String(), `"` + field + `"`, `\b` + camel.String() + `:`}
	if later := laterNames[field]; later != "" {
		forms = append(forms, later)
	}
	return regexp.MustCompile(`(` + strings.Join(forms, "|") + `)(\b|$)|"` + field + `"`).MatchString(text)
}
