package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// What is kept of conditions changes no verdict, whatever was compiled before, and does not grow without end.
func TestCompile_whatIsKeptGivesTheSameAndIsBounded(t *testing.T) {
	t.Parallel()
	host, kernel := api.FactHostName, api.FactKernelVersion
	for range 2 { // the second time from what is kept
		for _, c := range []struct {
			fact  api.FactName
			op    api.Operator
			value string
			got   string
			want  bool
		}{
			{host, api.OpMatches, "db-[0-9]+", "db-7", true}, {host, api.OpMatches, "db-[0-9]+", "db-x", false},
			{host, api.OpEqual, "6.1", "6.1.0", false}, {kernel, api.OpEqual, "6.1", "6.1.0", true},
			{host, api.OpNotEqual, "6.1", "6.1.0", true}, {kernel, api.OpGreater, "6.1", "6.2", true},
		} {
			info, _ := lookup(c.fact)
			holds, err := compile(info, api.Condition{Operator: c.op, Value: c.value})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := holds([]string{c.got}, time.Time{}); got != c.want || err != nil {
				t.Errorf("%s %s %s of %s: %v, %v", c.fact, c.op, c.value, c.got, got, err)
			}
		}
	}
	info, _ := lookup(host)
	for i := range maxTests + 10 {
		if _, err := compile(info, api.Condition{Operator: api.OpEqual, Value: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, large := range []api.Condition{{Operator: api.OpMatches, Value: "a{1000}"}, {Operator: api.OpEqual, Value: strings.Repeat("x", maxTestText+1)}} {
		if _, err := compile(info, large); err != nil {
			t.Fatal(err)
		}
		tests.RLock()
		if _, kept := tests.made[condition{host, large}]; kept || len(tests.made) > maxTests {
			t.Errorf("%.20s is kept: %v, among %d", large.Value, kept, len(tests.made))
		}
		tests.RUnlock()
	}
}
