package schedule

import (
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func at(t *testing.T, clock, weekday string) At {
	t.Helper()
	a, err := Parse(clock, weekday)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestNext_isTheWallClockOfTheZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, zone, clock, weekday, after, want string }{
		{"later today", "UTC", "03:30", "", "2026-06-01T01:00:00Z", "2026-06-01T03:30:00Z"},
		{"tomorrow", "UTC", "03:30", "", "2026-06-01T03:30:00Z", "2026-06-02T03:30:00Z"},
		{"the zone's day is ahead", "Pacific/Auckland", "00:15", "", "2026-06-01T11:00:00Z", "2026-06-01T12:15:00Z"},
		{"the zone's day is behind", "America/Los_Angeles", "23:00", "", "2026-06-01T03:00:00Z", "2026-06-01T06:00:00Z"},
		{"a weekday", "Europe/Berlin", "04:00", "sunday", "2026-06-01T00:00:00Z", "2026-06-07T02:00:00Z"},
		{"a weekday, a week later", "Europe/Berlin", "04:00", "Sunday", "2026-06-07T02:00:00Z", "2026-06-14T02:00:00Z"},
		{"summer time begins: 02:30 is skipped, so 03:00", "Europe/Berlin", "02:30", "", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"and the day after it is 02:30 again", "Europe/Berlin", "02:30", "", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"},
		{"summer time ends: of two 02:30 the first", "Europe/Berlin", "02:30", "", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"and not the second", "Europe/Berlin", "02:30", "", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"asked between the two", "Europe/Berlin", "02:30", "", "2026-10-25T01:00:00Z", "2026-10-26T01:30:00Z"},
		{"half an hour of summer time", "Australia/Lord_Howe", "02:15", "", "2026-10-03T10:00:00Z", "2026-10-03T15:30:00Z"},
		{"midnight is skipped", "America/Santiago", "00:00", "", "2026-09-05T12:00:00Z", "2026-09-06T04:00:00Z"},
		{"a day that the zone skipped: as soon as it is over", "Pacific/Apia", "10:00", "", "2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			after, err := time.Parse(time.RFC3339, c.after)
			if err != nil {
				t.Fatal(err)
			}
			if got := at(t, c.clock, c.weekday).Next(after, zone(t, c.zone)).UTC().Format(time.RFC3339); got != c.want {
				t.Errorf("%s after %s in %s is %s, want %s", c.clock, c.after, c.zone, got, c.want)
			}
		})
	}
}

// Whatever the zone and the time: it comes once a day, in order, and shows the time wanted unless the day skips it.
func TestNext_comesOnceADay(t *testing.T) {
	t.Parallel()
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago", "Asia/Kathmandu", "Pacific/Chatham"}
	rapid.Check(t, func(r *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(r, "zone"))
		a := At{Hour: rapid.IntRange(0, 23).Draw(r, "hour"), Minute: rapid.IntRange(0, 59).Draw(r, "minute")}
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(r, "from"), 0)
		seen := ""
		for range 400 {
			next := a.Next(now, z)
			if !next.After(now) || next.Sub(now) > 26*time.Hour {
				r.Fatalf("%v follows %v", next, now)
			}
			if day := next.Format(time.DateOnly); day == seen {
				r.Fatalf("twice on %s", day)
			} else {
				seen = day
			}
			if next.Hour() != a.Hour || next.Minute() != a.Minute {
				_, before := next.Add(-time.Second).Zone()
				if _, then := next.Zone(); then == before {
					r.Fatalf("%v is not %02d:%02d and no clock changed", next, a.Hour, a.Minute)
				}
			}
			now = next
		}
	})
}

func TestParse_refusesWhatIsNoTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ clock, weekday string }{{"", ""}, {"24:00", ""}, {"3:30", ""}, {"03:60", ""}, {"-1:00", ""}, {"03:3", ""}, {"03:30:00", ""}, {"+3:30", ""}, {"03:30", "caturday"}} {
		if a, err := Parse(c.clock, c.weekday); err == nil {
			t.Errorf("%q %q is %+v", c.clock, c.weekday, a)
		}
	}
}
