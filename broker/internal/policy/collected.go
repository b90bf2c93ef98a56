package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"keyward/broker/api"
)

// collected are the facts to judge: each name once, with an origin that can be trusted to be what it says.
type collected struct {
	facts map[key]api.Fact
	order []key // registry order, then the facts this broker does not know by name; those of one name by subject
}

// collect merges evidence and observed facts. What the broker observed stands above what a machine says of itself.
func collect(c Context) collected {
	facts := make(map[key]api.Fact, len(c.Evidence.Facts)+len(c.Observed))
	for _, f := range c.Evidence.Facts {
		if !mayReport(f) {
			continue
		}
		f.Grade = api.GradeSelfReported
		put(facts, f)
	}
	observed := make(map[key]api.Fact, len(c.Observed))
	for _, f := range c.Observed {
		put(observed, unmapSource(f))
	}
	for k, f := range observed {
		facts[k] = f
	}
	return collected{facts, orderOf(facts)}
}

// mayReport says whether a machine may supply a fact: not one that only the broker can know, nor one that claims to
// have been seen by the broker.
func mayReport(f api.Fact) bool {
	info, known := lookup(f.Name)
	return f.Name != "" && !(known && info.Observed) && f.Grade != api.GradeBrokerObserved && f.Grade != api.GradeAPIConfirmed
}

// put adds a fact. A name (with its subject) that comes twice is no data: choosing one would let a machine hide the other.
func put(facts map[key]api.Fact, f api.Fact) {
	if _, twice := facts[keyOf(f)]; twice {
		f.Values, f.Missing = nil, "reported more than once"
	}
	facts[keyOf(f)] = f
}

// unmapSource files an IPv4-mapped IPv6 source address as the IPv4 address that it is.
func unmapSource(f api.Fact) api.Fact {
	if f.Name != api.FactSourceIPv6 || len(f.Values) != 1 {
		return f
	}
	if ip, err := netip.ParseAddr(f.Values[0]); err == nil && ip.Is4In6() {
		f.Name, f.Values = api.FactSourceIPv4, []string{ip.Unmap().String()}
	}
	return f
}

func orderOf(facts map[key]api.Fact) []key {
	type placed struct {
		key
		place int
	}
	all := make([]placed, 0, len(facts))
	for k := range facts {
		place, known := places[k.name]
		if !known {
			place = len(registry)
		}
		all = append(all, placed{k, place})
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(a.place-b.place, cmp.Compare(a.name, b.name), cmp.Compare(a.subject, b.subject))
	})
	order := make([]key, len(all))
	for i, k := range all {
		order[i] = k.key
	}
	return order
}

// find is a fact with the reason why it cannot be judged, which is empty when it can.
func (c collected) find(k key) (f api.Fact, why string) {
	f, ok := c.facts[k]
	if ok {
		return f, absent(f)
	}
	info, _ := lookup(k.name)
	switch installed, known := c.facts[key{name: api.FactSecuritySoftware}]; {
	case info.Subject == nil:
		return f, "not reported"
	case len(info.Subject.Values) == 0:
		return f, "not reported: name it under facts in the agent's configuration"
	case known && installed.Missing == "" && !slices.Contains(installed.Values, k.subject):
		return f, "not reported: " + k.subject + " is not installed"
	}
	return f, "not reported"
}

// absent says why a fact cannot be judged; empty when it can.
func absent(f api.Fact) string {
	info, known := lookup(f.Name)
	switch {
	case f.Missing != "":
		return f.Missing
	case len(f.Values) == 0 && known && !info.Type.set(): // no open port is an answer, no host name is not
		return "reported without a value"
	}
	return ""
}

// actual is a fact's whole value for people; why says why there is none.
func actual(f api.Fact, why string) string {
	if why != "" {
		return "no data: " + why
	}
	if len(f.Values) == 0 {
		return "none"
	}
	values := slices.Clone(f.Values)
	if info, known := lookup(f.Name); known && info.Type == TypeNumberSet {
		slices.SortFunc(values, func(a, b string) int {
			m, errM := strconv.Atoi(a)
			n, errN := strconv.Atoi(b)
			if errM != nil || errN != nil {
				return strings.Compare(a, b)
			}
			return m - n
		})
		values = slices.Compact(values)
	} else if known && info.Type.set() {
		slices.Sort(values)
	}
	if text := strings.Join(values, ", "); text != "" {
		return text
	}
	return "(empty)"
}

// formula writes a rule's conditions as people read them: "(>= 1.1.1.1) AND (<= 1.1.1.200)".
func formula(r api.Rule) string {
	parts := make([]string, len(r.Conditions))
	for i, c := range r.Conditions {
		parts[i] = fmt.Sprintf("%s %s", c.Operator, c.Value)
		if low, high, err := cutRange(c.Value); c.Operator == api.OpBetween && err == nil {
			parts[i] = fmt.Sprintf("(>= %s) AND (<= %s)", low, high)
		}
		switch c.Operator {
		case api.OpOlderThan:
			parts[i] += " s"
		case api.OpHolds:
			parts[i] = c.Value
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	glue := " AND "
	if r.Match == api.MatchAny {
		glue = " OR "
	}
	for i := range parts {
		parts[i] = "(" + parts[i] + ")"
	}
	return strings.Join(parts, glue)
}
