package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/ability"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/pageserver"
)

// Pages are the programs of lazy restores.
type Pages struct {
	// Program is the supervisor of the page server, CRIU the criu binary.
	Program, CRIU string
	// Able says whether the kernel has what they need.
	Able *ability.Ability
}

// Serve starts the page server of a lazy restore and tells CRIU of it. The returned server is nil where the restore is
// to be eager.
func (s *Store) Serve(ctx context.Context, id string, r *Record) (*pageserver.Server, error) {
	if !r.Lazy || s.Pages == nil {
		return nil, s.setLazy(r, false)
	}
	server, err := pageserver.Start(ctx, pageserver.Config{
		Program: s.Pages.Program, CRIU: s.Pages.CRIU, Container: id, Images: s.Dirs.Images(r), Work: s.Dirs.Work(r.ID),
	})
	if err != nil {
		return nil, errors.Join(err, s.setLazy(r, false))
	}
	if err := s.setLazy(r, true); err != nil {
		err = errors.Join(err, server.Stop(ctx), s.setLazy(r, false))
		server.Close()
		return nil, err
	}
	return server, nil
}

// setLazy makes CRIU register missing memory with a page server, or not.
func (s *Store) setLazy(r *Record, on bool) error {
	return s.configure(r, func(o *passing) { o.lazy = on })
}

// Drain records that the processes run and their memory is arriving.
func (s *Store) Drain(ctx context.Context, id string) error {
	return s.update(ctx, id, func(r *Record) { r.Draining = true })
}

// Arrive records that all memory is there, before End removes what says so.
func (s *Store) Arrive(ctx context.Context, id string) error {
	return s.update(ctx, id, func(r *Record) { r.Drained = true })
}

// Lose records that memory will not arrive. The container is dead.
func (s *Store) Lose(ctx context.Context, id, why string) error {
	return s.update(ctx, id, func(r *Record) { r.PagesLost = why })
}

// Stats are CRIU's own numbers of a restore that has just been done.
func (s *Store) Stats(r *Record) (*criu.RestoreStats, error) {
	return criu.ReadRestoreStats(s.Dirs.Work(r.ID))
}

// Server returns the page server of a restore, with an error of class errdefs.ErrNotFound if none runs.
func (s *Store) Server(r *Record) (*pageserver.Server, error) {
	return pageserver.Find(s.Dirs.Work(r.ID))
}

// StopServer ends the page server of a restore, if one runs.
func (s *Store) StopServer(ctx context.Context, r *Record) error {
	return pageserver.Stop(ctx, s.Dirs.Work(r.ID))
}

// Lost returns why memory of a lazy restore did not arrive, empty if it did or still may.
func (s *Store) Lost(r *Record) string {
	if r.PagesLost != "" || !r.Draining || r.Drained {
		return r.PagesLost
	}
	result, err := pageserver.Outcome(s.Dirs.Work(r.ID))
	if err != nil || result.Drained {
		return ""
	}
	return s.explainLost(r, result.Lost)
}

// explainLost adds what CRIU said of it.
func (s *Store) explainLost(r *Record, why string) string {
	lines, err := criu.ErrorLines(filepath.Join(s.Dirs.Work(r.ID), pageserver.LogFile), maxErrorLines, maxErrorBytes)
	if err == nil && len(lines) > 0 {
		why += "; CRIU says: " + strings.Join(lines, " | ")
	}
	return why
}

// Settle waits until the page server has ended, and returns when it did and why memory was lost, if it was:
// then all processes of the container are dead. server is nil if none runs any more.
func (s *Store) Settle(ctx context.Context, id string, r *Record, server *pageserver.Server) (ended time.Time,
	lost string, err error) {
	if r.Drained {
		return time.Now(), "", nil
	}
	var result *pageserver.Result
	if server != nil {
		result, err = server.Wait(ctx)
	} else if result, err = pageserver.Outcome(s.Dirs.Work(r.ID)); errdefs.IsNotFound(err) {
		err = fmt.Errorf("the page server and its supervisor were killed: %w", errdefs.ErrDataLoss)
	}
	switch {
	case ctx.Err() != nil:
		return time.Time{}, "", err
	case err == nil && result.Drained:
		return result.Ended, "", nil
	case err == nil:
		return result.Ended, s.explainLost(r, result.Lost), nil
	}
	// Nobody has seen to it that the container does not go on without its memory.
	return time.Now(), err.Error(), pageserver.Kill(ctx, id, s.Dirs.Work(r.ID))
}

// WaitDrained waits until all memory of a lazily restored container is there. Without it the
// container can not be checkpointed: CRIU does not dump what is registered with a page server.
func (s *Store) WaitDrained(ctx context.Context, id string) error {
	_, r, err := s.Get(ctx, id)
	if err != nil || !r.Draining {
		return nil // whatever is wrong with the container, it is not this
	}
	server, err := s.Server(r)
	if errdefs.IsNotFound(err) {
		return nil // it has ended, the record will say so
	}
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := server.Wait(ctx); err != nil {
		return fmt.Errorf("memory of container %s is still arriving from checkpoint %s, try again later: %w: %w", id,
			r.Image, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}
