package ui

import (
	"fmt"
	"time"
)

// relativeFor is how long a time is shown as "2 hours ago" before it is shown as a date.
const relativeFor = 24 * time.Hour

// NewWhen describes t as seen at now, in a zone and a layout of package time. A zero time is "never".
func NewWhen(t, now time.Time, zone *time.Location, layout string) When {
	if t.IsZero() {
		return When{Text: "never"}
	}
	exact := t.In(zone).Format(layout)
	return When{Text: relative(now.Sub(t), exact), Exact: exact, ISO: t.UTC().Format(time.RFC3339)}
}

func relative(age time.Duration, exact string) string {
	switch {
	case age <= -relativeFor, age >= relativeFor:
		return exact
	case age < -time.Minute:
		return "in " + count(-age)
	case age < time.Second: // includes clocks that differ a little
		return "just now"
	}
	return count(age) + " ago"
}

func count(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := int64(d / unit.length); n == 1 {
			return "1 " + unit.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "1 second"
}
