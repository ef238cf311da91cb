package verify

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

const (
	// maxWork is how many steps a phase takes at most. A checkpoint of 50 processes takes some ten thousand, a pagemap
	// of 64 GiB of which no two pages lie side by side 16 million.
	maxWork = 1 << 30
	// askedEvery is how many steps there are between two looks at the context.
	askedEvery = 1 << 10
)

// budget is what a phase may take: every loop over what a checkpoint says spends of it.
type budget struct {
	ctx         context.Context
	spent, next int64
	// over is why nothing more is done. It stays, whatever becomes of the error that step has returned.
	over error
}

// ended looks at the context, for what spends nothing.
func (b *budget) ended() error {
	b.next = b.spent
	return b.step(0)
}

// step spends n steps, one of which is about an entry of an image, a system call or an element of a path. The error is the context's, of class
// errdefs.ErrDeadlineExceeded or errdefs.ErrCanceled, or of class errdefs.ErrResourceExhausted.
func (b *budget) step(n int) error {
	b.spent += int64(n)
	if b.over != nil || b.spent < b.next {
		return b.over
	}
	b.next = b.spent + askedEvery
	if b.spent > maxWork {
		b.over = fmt.Errorf("the verification of the checkpoint takes more than %d steps: %w", int64(maxWork), errdefs.ErrResourceExhausted)
	} else if err := b.ctx.Err(); err != nil {
		b.over = fmt.Errorf("the verification of the checkpoint was ended after %d steps: %w", b.spent, err)
	}
	return b.over
}
