package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// ErrNeedsRepair is returned by Check when the damage is more than can be repaired without questions.
var ErrNeedsRepair = errors.New("file system is damaged")

// Check repairs what is safe to repair on an unmounted ext file system (e2fsck -p: replays the journal and checks fully
// only when the last use ended badly). xfs replays its log when it is mounted, so nothing is done for it. A device that
// cannot be written is not checked.
func Check(ctx context.Context, device, fsType string, log *slog.Logger) error {
	if !strings.HasPrefix(fsType, "ext") {
		return nil
	}
	err := run(ctx, "e2fsck", []string{"-p", device}, nil)
	var te *toolError
	if err == nil || !errors.As(err, &te) {
		return err
	}
	// e2fsck(8): 1 = errors corrected, 2 = corrected and the system should reboot (only for a mounted root), 4 and up = not.
	switch te.code {
	case 1, 2:
		if log != nil {
			log.Warn("file system errors were repaired", "device", device, "said", strings.Join(te.lines, " / "))
		}
		return nil
	case 4:
		return fmt.Errorf("check %s: %w: %s; make a copy of the volume and run e2fsck on %s by hand", device, ErrNeedsRepair,
			strings.Join(te.lines, " / "), device)
	}
	return fmt.Errorf("check %s: %w", device, err)
}
