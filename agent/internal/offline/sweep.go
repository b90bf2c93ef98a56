package offline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"keyward/agent/internal/attach"
)

// sweep removes what a killed process left of a session.
func (s Session) sweep(ctx context.Context, log *slog.Logger) error {
	if err := drop(ctx, (&Open{o: Options{Dir: s.Dir}}).attachments(), log); err != nil {
		return err
	}
	forget(s.Dir)
	return nil
}

// forget removes a session's files, and its folders where nothing is left in them: a block device that could not be
// detached keeps what describes it.
func forget(dir string) {
	for _, name := range []string{stateFile, "control.sock", "agent.lock", "volume", "."} {
		_ = os.Remove(filepath.Join(dir, name))
	}
}

// drop detaches block devices whose process was killed: with it went the key, and nobody will answer what still waits.
func drop(ctx context.Context, dir string, log *slog.Logger) error {
	leftovers, err := attach.Stale(ctx, dir, log)
	for _, left := range leftovers {
		err = errors.Join(err, attach.Drop(ctx, dir, left))
	}
	if err != nil {
		return fmt.Errorf("clean up after a process that was killed: %w", err)
	}
	return nil
}
