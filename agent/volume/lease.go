package volume

import "time"

// lease is the agent's own dead-man switch. It counts on a clock that goes on while the machine sleeps (CLOCK_BOOTTIME on
// Linux) and that nobody can set, so that neither a suspended laptop nor a changed date stretches it.
type lease struct {
	clock func() time.Duration
	end   time.Duration
	on    bool
}

// start begins a lease that lasts until end.
func (l *lease) start(end time.Duration) { l.end, l.on = end, true }

// renew makes a running lease last until end. A lease that is over stays over.
func (l *lease) renew(end time.Duration) {
	if l.on && !l.over() {
		l.end = end
	}
}

func (l *lease) stop() { l.on = false }

func (l *lease) over() bool { return l.on && l.clock() >= l.end }

// left is what remains, zero without a lease.
func (l *lease) left() time.Duration {
	if !l.on {
		return 0
	}
	return max(0, l.end-l.clock())
}
