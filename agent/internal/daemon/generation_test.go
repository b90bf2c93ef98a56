package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestRun_everyStartIsCountedBesideTheIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	first, second := newRun(dir, log), newRun(dir, log)
	if first.Generation != 1 || second.Generation != 2 || first.ID == second.ID || len(first.ID) != 32 {
		t.Errorf("runs %+v and %+v", first, second)
	}
	if first.BootID != second.BootID || first.BootID == "" {
		t.Errorf("boots %q and %q", first.BootID, second.BootID)
	}
	if err := os.WriteFile(filepath.Join(dir, generationFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := newRun(dir, log); third.Generation != 1 {
		t.Errorf("with a damaged file the count is %d", third.Generation)
	}
	if lost := newRun(filepath.Join(dir, "missing"), log); lost.Generation != 0 || lost.ID == "" {
		t.Errorf("without a folder: %+v", lost)
	}
}
