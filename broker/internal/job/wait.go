package job

import (
	"cmp"
	"fmt"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
)

// waitOf is how long an encryption that is asked for may wait for its machine.
func waitOf(in api.EncryptWrite) (time.Duration, error) {
	if in.WaitSeconds < 0 || in.WaitSeconds > api.MaxEncryptWait {
		return 0, problem.Invalid("wait_seconds", fmt.Sprintf("is the time to wait for the machine: at most %s, or 0 for %s",
			span(api.MaxEncryptWait*time.Second), span(api.DefaultEncryptWait*time.Second)))
	}
	return time.Duration(cmp.Or(in.WaitSeconds, api.DefaultEncryptWait)) * time.Second, nil
}

// span writes a duration of whole seconds in its largest whole unit.
func span(d time.Duration) string {
	n, unit := int64(d/time.Second), "second"
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		n, unit = int64(d/time.Hour), "hour"
	case d >= time.Minute && d%time.Minute == 0:
		n, unit = int64(d/time.Minute), "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}
