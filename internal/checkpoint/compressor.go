package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/fsnotify/fsnotify"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Compressor compresses CRIU's images of pages while CRIU writes them, by zstd at its fastest level, so that little is
// left to do when CRIU is done.
type Compressor struct {
	images, scratch string
	watcher         *fsnotify.Watcher
	encoder         *zstd.Encoder
	parts           []*pages // in the order in which CRIU has begun them
	current         int      // the part that is being compressed
	stopping, ended chan struct{}
	stopOnce        sync.Once
	err             error
}

// pages is one of CRIU's images of pages.
type pages struct {
	name string   // relative to the checkpoint
	src  *os.File // what CRIU writes
	dst  *os.File // whole frames of zstd, as soon as the part is done
	read int64    // bytes of src that are in dst
}

// NewCompressor begins to watch dir, in which the checkpoint will be. What is compressed waits in scratch. Both exist,
// on one file system, and belong to the caller alone. The compressor has to be closed.
func NewCompressor(dir, scratch string) (*Compressor, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := watcher.Add(dir); err != nil {
		return nil, errors.Join(err, watcher.Close())
	}
	c := &Compressor{images: filepath.Join(dir, metadata.CheckpointDirectory), scratch: scratch, watcher: watcher,
		encoder:  encoder,
		stopping: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		// Not of a request's context: the compressor ends when it is closed.
		if err := recovery.Do(context.Background(), "compress checkpoint",
			func() error { c.follow(); return nil }); err != nil {
			c.err = err
		}
	}()
	return c, nil
}

// follow compresses what there is whenever something was written. What it misses is done at the end.
func (c *Compressor) follow() {
	for {
		select {
		case <-c.stopping:
			return
		case _, ok := <-c.watcher.Events:
			if !ok {
				return
			}
		case _, ok := <-c.watcher.Errors: // events were lost; the next one, or the end, makes up for them
			if !ok {
				return
			}
		}
		if c.err = errors.Join(c.watcher.Add(c.images), c.advance()); errors.Is(c.err, fs.ErrNotExist) {
			c.err = nil // it is still to come
		}
		if c.err != nil {
			return
		}
	}
}

// advance compresses what is there. A part is done when it has no more and CRIU has begun another.
func (c *Compressor) advance() error {
	if err := c.find(); err != nil {
		return err
	}
	for ; c.current < len(c.parts); c.current++ {
		if err := c.more(c.parts[c.current]); err != nil || c.current == len(c.parts)-1 || c.stopped() {
			return err
		}
		if err := c.encoder.Close(); err != nil {
			return err
		}
		c.encoder.Reset(c.parts[c.current+1].dst)
	}
	return nil
}

// find adds the parts that are new, by the numbers that CRIU counts up.
func (c *Compressor) find() error {
	entries, err := os.ReadDir(c.images)
	if err != nil {
		return err
	}
	number := func(e fs.DirEntry) int {
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(e.Name(), pagesPrefix), ".img"))
		if err != nil || !strings.HasPrefix(e.Name(), pagesPrefix) {
			return 0
		}
		return n
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		name := filepath.Join(metadata.CheckpointDirectory, e.Name())
		return number(e) == 0 || slices.ContainsFunc(c.parts, func(p *pages) bool { return p.name == name })
	})
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(number(a), number(b)) })
	for _, e := range entries {
		p := &pages{name: filepath.Join(metadata.CheckpointDirectory, e.Name())}
		if p.src, err = os.OpenFile(filepath.Join(c.images, e.Name()), os.O_RDONLY|unix.O_NOFOLLOW, 0); err != nil {
			return err
		}
		if p.dst, err = os.OpenFile(filepath.Join(c.scratch, e.Name()+".zst"), os.O_CREATE|os.O_EXCL|os.O_RDWR,
			0o600); err != nil {
			return errors.Join(err, p.src.Close())
		}
		if len(c.parts) == 0 {
			c.encoder.Reset(p.dst)
		}
		c.parts = append(c.parts, p)
	}
	return nil
}

// more compresses the rest of a part, as far as it is written.
func (c *Compressor) more(p *pages) error {
	for {
		n, err := io.CopyN(c.encoder, p.src, copyBuffer)
		p.read += n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || c.stopped() {
			return err
		}
	}
}

func (c *Compressor) stopped() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// finish compresses what is left, when CRIU has ended.
func (c *Compressor) finish(ctx context.Context) error {
	c.stop()
	if c.err != nil {
		return c.err
	}
	if err := c.find(); err != nil {
		return err
	}
	for ; c.current < len(c.parts); c.current++ {
		if err := c.whole(ctx, c.parts[c.current]); err != nil {
			return err
		}
		if c.current+1 < len(c.parts) {
			c.encoder.Reset(c.parts[c.current+1].dst)
		}
	}
	// CRIU writes one after the other. If one was not done when the next had begun it is compressed again.
	for _, p := range c.parts {
		fi, err := p.src.Stat()
		if err != nil {
			return err
		}
		if fi.Size() == p.read {
			continue
		}
		if err := p.rewind(); err != nil {
			return err
		}
		c.encoder.Reset(p.dst)
		if err := c.whole(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// whole compresses the rest of a part that CRIU has left.
func (c *Compressor) whole(ctx context.Context, p *pages) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(c.encoder, p.src, copyBuffer)
		p.read += n
		if errors.Is(err, io.EOF) {
			return c.encoder.Close()
		}
		if err != nil {
			return err
		}
	}
}

// rewind forgets what was compressed.
func (p *pages) rewind() error {
	p.read = 0
	_, err := p.src.Seek(0, io.SeekStart)
	_, err2 := p.dst.Seek(0, io.SeekStart)
	return errors.Join(err, err2, p.dst.Truncate(0))
}

func (c *Compressor) stop() {
	c.stopOnce.Do(func() { close(c.stopping) })
	<-c.ended
}

// Close ends what goes on and closes all files. The compressed pages stay in scratch.
func (c *Compressor) Close() error {
	c.stop()
	errs := []error{c.watcher.Close()}
	for _, p := range c.parts {
		errs = append(errs, p.src.Close(), p.dst.Close())
	}
	c.parts = nil
	c.encoder.Reset(nil)
	return errors.Join(append(errs, c.encoder.Close())...)
}
