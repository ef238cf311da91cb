package verify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	pipe_data "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// fifo checks a named pipe, which CRIU opens by the path of another entry (criu/fifo.c).
func (o *openFiles) fifo(f *openFile) error {
	reg := o.byID[f.GetFifo().GetRegfId()]
	if f.GetFifo().RegfId == nil || reg == nil || reg.kind != fdinfo.FdTypes_REG || reg.GetReg().GetMode()&unix.S_IFMT != unix.S_IFIFO {
		return malformed(filesImage, "named pipe %d: file %d is none", f.GetId(), f.GetFifo().GetRegfId())
	}
	return nil
}

// pipeData checks what pipes hold. CRIU sets their size with the rights of root, which no limit binds (pipe(7)).
func (o *openFiles) pipeData() error {
	pipes, fifos := map[uint32]bool{}, map[uint32]bool{}
	for _, f := range o.files {
		switch f.kind {
		case fdinfo.FdTypes_PIPE:
			pipes[f.GetPipe().GetPipeId()] = true
		case fdinfo.FdTypes_FIFO:
			fifos[f.GetFifo().GetPipeId()] = true
		}
	}
	if err := o.dataOf("pipes-data.img", "PIPES_DATA", pipes); err != nil {
		return err
	}
	return o.dataOf("fifo-data.img", "FIFO_DATA", fifos)
}

func (o *openFiles) dataOf(image, kind string, known map[uint32]bool) error {
	if _, ok := o.images.Size(image); !ok {
		return nil
	}
	seen := map[uint32]bool{}
	most := maxPipe()
	return o.images.EachWithData(image, kind, func(_ int, entry []byte, rest io.Reader) error {
		e := &pipe_data.PipeDataEntry{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		id := e.GetPipeId()
		if !known[id] || seen[id] {
			return fmt.Errorf("pipe %d is unknown, or listed twice", id)
		}
		seen[id] = true
		if e.Size != nil && e.GetBytes() > e.GetSize() {
			return fmt.Errorf("pipe %d holds more than its size", id)
		}
		if size := max(e.GetSize(), e.GetBytes()); size > most && !o.could("CAP_SYS_RESOURCE") {
			o.refuse(Finding{Check: "files", Object: fmt.Sprintf("pipe %d", id), Field: "size", Found: fmt.Sprint(size),
				Allowed: fmt.Sprintf("%d (fs.pipe-max-size of this node)", most)})
		}
		return skip(rest, e.GetBytes())
	})
}

// skip reads over data that follows an entry.
func skip(rest io.Reader, n uint32) error {
	if _, err := io.CopyN(io.Discard, rest, int64(n)); err != nil {
		return errors.New("it ends within the data of an entry")
	}
	return nil
}

// maxPipe is the size that anybody may give a pipe on this node.
func maxPipe() uint32 {
	const usual = 1 << 20
	data, err := os.ReadFile("/proc/sys/fs/pipe-max-size")
	if err != nil {
		return usual
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 32)
	if err != nil {
		return usual
	}
	return uint32(n)
}
