package daemon

import (
	"context"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd, if it started the agent. Elsewhere it does nothing.
func notify(lines ...string) {
	_, _ = systemd.SdNotify(false, strings.Join(lines, "\n"))
}

// watchdog reports life to systemd as long as the agent can look at its volumes: one that hangs is started again.
func (d *Daemon) watchdog(ctx context.Context) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	for ctx.Err() == nil {
		_ = d.Status()
		notify("WATCHDOG=1")
		pause(ctx, every/3)
	}
}
