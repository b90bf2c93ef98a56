package daemon

import (
	"context"
	"strings"

	"keyward/agent/volume"
)

// completeLoop runs the mount_complete script each time the last of the machine's volumes has been mounted: not while one
// waits, and not when one has failed.
func (d *Daemon) completeLoop(ctx context.Context) {
	ran := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.settled:
		}
		points, complete := d.mountPoints()
		if !complete {
			ran = false
			continue
		}
		if ran {
			continue
		}
		ran = true
		notify("STATUS=all volumes are mounted")
		d.log.Info("all volumes are mounted", "mount_points", points)
		// A stop must not wait for the script: the teardown script that follows is what ends what it started.
		if err := d.complete.Run(ctx, "KEYWARD_MOUNT_POINTS="+strings.Join(points, ":")); err != nil && ctx.Err() == nil {
			d.log.Error("mount_complete script", "error", err)
		}
	}
}

// mountPoints lists where volumes are mounted, and whether that is all of them.
func (d *Daemon) mountPoints() (points []string, complete bool) {
	all := d.all()
	for _, v := range all {
		s := v.Snapshot()
		if s.State != volume.Mounted {
			return nil, false
		}
		points = append(points, s.MountPoint)
	}
	return points, len(all) > 0
}
