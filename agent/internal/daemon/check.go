package daemon

import (
	"context"
	"fmt"
	"strings"

	"keyward/broker/api"
)

// answer sends fresh evidence for a check that the broker asks for. The command is repeated until the broker has it, so
// one answer to a challenge is on its way at a time.
func (d *Daemon) answer(c api.Command) {
	d.mu.Lock()
	busy := d.answering[c.Nonce] || c.Nonce == ""
	d.answering[c.Nonce] = true
	d.mu.Unlock()
	if busy {
		return
	}
	go func() {
		defer func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.answering, c.Nonce)
		}()
		d.log.Info("the broker checks this machine", "reason", c.Reason)
		if _, err := d.beat(context.Background(), c.Nonce, false); err != nil {
			d.log.Warn("answering the broker's check; it asks again", "error", err)
		}
	}()
}

// checkNow has the broker judge this machine, and says what came of it.
func (d *Daemon) checkNow(ctx context.Context) (string, error) {
	out, err := d.beat(ctx, "", true)
	if err != nil {
		return "", fmt.Errorf("send fresh evidence to the broker: %w", err)
	}
	if len(out.Checked) == 0 {
		return "no key of this machine is under check: none is delivered, or none of their policies checks", nil
	}
	names := map[string]string{}
	for _, v := range d.all() {
		s := v.Snapshot()
		names[s.DeviceID] = s.Name
	}
	var lines []string
	for _, c := range out.Checked {
		name := names[c.DeviceID]
		if name == "" {
			name = c.DeviceID
		}
		lines = append(lines, fmt.Sprintf("%s: %s, integrity %s. %s", name, c.Status, c.Integrity, c.Reason))
	}
	return strings.Join(lines, "\n"), nil
}
