// Package schedule says when something comes next that happens at a wall-clock time every day or every week. It is pure,
// and right on the days on which clocks change: what was due at a time that the day skips comes as soon as the skip is
// over, and what is due at a time that the day has twice comes at the first.
package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// At is a wall-clock time that comes back.
type At struct {
	Hour, Minute int
	// Weekly names the one day of the week; nil means every day.
	Weekly *time.Weekday
}

// Parse reads a time such as "03:30" and the English name of a weekday in any case; an empty name means every day.
func Parse(clock, weekday string) (At, error) {
	var at At
	hour, minute, ok := strings.Cut(clock, ":")
	h, errH := strconv.Atoi(hour)
	m, errM := strconv.Atoi(minute)
	if !ok || errH != nil || errM != nil || len(hour) != 2 || len(minute) != 2 || h < 0 || h > 23 || m < 0 || m > 59 || strings.ContainsAny(clock, "+-") {
		return at, fmt.Errorf("%q is not a time from 00:00 to 23:59", clock)
	}
	at.Hour, at.Minute = h, m
	if weekday == "" {
		return at, nil
	}
	for d := time.Sunday; d <= time.Saturday; d++ {
		if strings.EqualFold(d.String(), weekday) {
			at.Weekly = &d
			return at, nil
		}
	}
	return at, fmt.Errorf("%q is not a day of the week", weekday)
}

// Next is the first time after a moment, in zone.
func (a At) Next(after time.Time, zone *time.Location) time.Time {
	local := after.In(zone)
	// The day before too: the moment of a skipped time can lie on the next day.
	for day := -1; ; day++ {
		date := time.Date(local.Year(), local.Month(), local.Day()+day, 12, 0, 0, 0, time.UTC)
		if a.Weekly != nil && date.Weekday() != *a.Weekly {
			continue
		}
		if t := a.on(date, zone); t.After(after) {
			return t
		}
	}
}

// on is the moment of a day.
func (a At) on(date time.Time, zone *time.Location) time.Time {
	t := time.Date(date.Year(), date.Month(), date.Day(), a.Hour, a.Minute, 0, 0, zone)
	start, end := t.ZoneBounds()
	want := time.Date(date.Year(), date.Month(), date.Day(), a.Hour, a.Minute, 0, 0, time.UTC)
	switch wall := wallClock(t); {
	case wall.After(want): // the clock went over it; time.Date counted by the time before
		return start.In(zone)
	case wall.Before(want): // or by the time after
		return end.In(zone)
	}
	if start.IsZero() {
		return t
	}
	_, now := t.Zone()
	_, before := start.Add(-time.Second).Zone()
	if earlier := t.Add(time.Duration(now-before) * time.Second); earlier.Before(start) {
		return earlier
	}
	return t
}

// wallClock is what a clock on the wall shows, as a time that can be compared.
func wallClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}
