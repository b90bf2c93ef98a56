package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"keyward/broker/api"
)

// collected are the facts to judge: each name once, with an origin that can be trusted to be what it says.
type collected struct {
	facts map[api.FactName]api.Fact
	order []api.FactName // registry order, then the facts this broker does not know by name
}

// collect merges evidence and observed facts. What the broker observed stands above what a machine says of itself.
func collect(c Context) collected {
	facts := make(map[api.FactName]api.Fact, len(c.Evidence.Facts)+len(c.Observed))
	for _, f := range c.Evidence.Facts {
		if !mayReport(f) {
			continue
		}
		f.Grade = api.GradeSelfReported
		put(facts, f)
	}
	observed := make(map[api.FactName]api.Fact, len(c.Observed))
	for _, f := range c.Observed {
		put(observed, unmapSource(f))
	}
	for name, f := range observed {
		facts[name] = f
	}
	return collected{facts, orderOf(facts)}
}

// mayReport says whether a machine may supply a fact: not one that only the broker can know, nor one that claims to
// have been seen by the broker.
func mayReport(f api.Fact) bool {
	info, known := lookup(f.Name)
	return f.Name != "" && !(known && info.Observed) && f.Grade != api.GradeBrokerObserved && f.Grade != api.GradeAPIConfirmed
}

// put adds a fact. A name that comes twice is no data: choosing one would let a machine hide the other.
func put(facts map[api.FactName]api.Fact, f api.Fact) {
	if _, twice := facts[f.Name]; twice {
		f.Values, f.Missing = nil, "reported more than once"
	}
	facts[f.Name] = f
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

func orderOf(facts map[api.FactName]api.Fact) []api.FactName {
	var order, unknown []api.FactName
	for _, info := range registry {
		if _, ok := facts[info.Name]; ok {
			order = append(order, info.Name)
		}
	}
	for name := range facts {
		if _, known := lookup(name); !known {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return append(order, unknown...)
}

// absent says why a fact cannot be judged; empty when it can.
func absent(f api.Fact, ok bool) string {
	info, known := lookup(f.Name)
	switch {
	case !ok:
		return "not reported"
	case f.Missing != "":
		return f.Missing
	case len(f.Values) == 0 && known && info.Type != TypeNumberSet: // no open port is an answer, no host name is not
		return "reported without a value"
	}
	return ""
}

// actual is a fact's whole value for people.
func actual(f api.Fact, ok bool) string {
	if why := absent(f, ok); why != "" {
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
		if c.Operator == api.OpOlderThan {
			parts[i] += " s"
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
