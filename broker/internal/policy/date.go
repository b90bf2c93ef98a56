package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
)

// moment is a date of a condition: a span from first to last (both inside), so that a day is compared as a day. A
// relative moment is counted back from the time of judgement.
type moment struct {
	first, last time.Time
	relative    bool
	before      time.Duration
}

var errDate = errors.New("use YYYY-MM-DD, an RFC 3339 time such as 2026-12-31T18:00:00Z, or a time before now such as now-24h or now-7d")

// maxAge bounds relative dates and ages: a century, far from overflowing time.Duration.
const maxAge = 100 * 365 * 24 * time.Hour

// parseMoment reads a condition's date.
func parseMoment(s string) (moment, error) {
	s = strings.TrimSpace(s)
	if age, ok := strings.CutPrefix(s, "now-"); ok {
		before, err := parseAge(age)
		return moment{relative: true, before: before}, err
	}
	if s == "now" {
		return moment{relative: true}, nil
	}
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return moment{first: day, last: day.AddDate(0, 0, 1).Add(-1)}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return moment{}, errDate
	}
	return moment{first: t, last: t}, nil
}

// parseAge reads 90s, 15m, 24h, 7d.
func parseAge(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	if len(s) < 2 || units[s[len(s)-1]] == 0 {
		return 0, errDate
	}
	unit := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil || time.Duration(n) > maxAge/unit {
		return 0, errDate
	}
	return time.Duration(n) * unit, nil
}

// at fixes a relative moment.
func (m moment) at(now time.Time) moment {
	if !m.relative {
		return m
	}
	t := now.Add(-m.before)
	return moment{first: t, last: t}
}

// parseSeconds reads the operand of "older than".
func parseSeconds(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil || time.Duration(n) > maxAge/time.Second {
		return 0, errors.New("use a number of seconds, for example 86400 for a day")
	}
	return time.Duration(n) * time.Second, nil
}

func compileDate(c api.Condition) (test, error) {
	if c.Operator == api.OpOlderThan {
		age, err := parseSeconds(c.Value)
		if err != nil {
			return nil, err
		}
		return onDate(func(t, now time.Time) bool { return now.Sub(t) > age }), nil
	}
	from, to, err := ends(c, parseMoment)
	if err != nil {
		return nil, err
	}
	if from.relative == to.relative && to.at(time.Time{}).last.Before(from.at(time.Time{}).first) {
		return nil, errRangeOrder
	}
	return onDate(func(t, now time.Time) bool {
		return ordered(c.Operator, t.Compare(from.at(now).first), t.Compare(to.at(now).last))
	}), nil
}

func onDate(holds func(t, now time.Time) bool) test {
	return func(values []string, now time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return false, fmt.Errorf("%q is not an RFC 3339 time", text)
		}
		return holds(t, now), nil
	}
}
