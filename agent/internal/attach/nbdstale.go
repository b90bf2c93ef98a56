package attach

import (
	"context"
	"fmt"
)

// staleNBD describes a device whose agent died; a device that is gone leaves only its state to remove.
func staleNBD(st state, runtimeDir string, left *Leftover) error {
	n, err := nbdOf(st.VolumeUUID)
	if err != nil {
		return err
	}
	if n < 0 {
		return st.remove(runtimeDir)
	}
	left.Path, left.Reattachable = nbdPath(n), true
	return nil
}

func dropNBD(ctx context.Context, runtimeDir string, left Leftover) error {
	st, err := readState(runtimeDir, left.VolumeUUID)
	if err != nil {
		return err
	}
	if st.Owner.alive() {
		return fmt.Errorf("drop volume %s: process %d serves it; detach it there", left.VolumeUUID, st.Owner.PID)
	}
	n, err := nbdOf(st.VolumeUUID)
	if err != nil {
		return fmt.Errorf("drop volume %s: %w", left.VolumeUUID, err)
	}
	if n >= 0 {
		link, err := dialNBD(ctx)
		if err != nil {
			return fmt.Errorf("drop volume %s: %w", left.VolumeUUID, err)
		}
		defer link.close()
		if err := link.disconnect(n); err != nil && nbdConnected(n) {
			return fmt.Errorf("drop volume %s: %w", left.VolumeUUID, err)
		}
		for _, m := range mountsOn(fmt.Sprintf("nbd%d", n)) {
			if err := shutdownDetach(m); err != nil {
				return fmt.Errorf("drop volume %s: %w", left.VolumeUUID, err)
			}
		}
	}
	return st.remove(runtimeDir)
}
