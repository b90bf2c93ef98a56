package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
)

// ports is an inclusive range of port numbers.
type ports struct{ low, high uint16 }

func compilePorts(c api.Condition) (test, error) {
	list, err := parseEach(c.Value, func(s string) (ports, error) { return parsePorts(c.Operator, s) })
	if err != nil {
		return nil, err
	}
	listed := func(n uint16) bool {
		return slices.ContainsFunc(list, func(p ports) bool { return p.low <= n && n <= p.high })
	}
	return func(values []string, _ time.Time) (bool, error) {
		open := make(map[uint16]bool, len(values))
		for _, text := range values {
			n, err := parsePort(text)
			if err != nil {
				return false, err
			}
			open[n] = true
		}
		if c.Operator == api.OpContains {
			return !slices.ContainsFunc(list, func(p ports) bool { return !open[p.low] }), nil
		}
		for n := range open {
			if listed(n) == (c.Operator == api.OpLacks) {
				return false, nil
			}
		}
		return true, nil
	}, nil
}

func parsePorts(op api.Operator, s string) (ports, error) {
	if !strings.Contains(s, "..") {
		n, err := parsePort(s)
		return ports{n, n}, err
	}
	if op == api.OpContains {
		return ports{}, fmt.Errorf("%q: name each port; a range works with \"%s\" and \"%s\"", s, api.OpLacks, api.OpOnly)
	}
	lowText, highText, err := cutRange(s)
	if err != nil {
		return ports{}, err
	}
	low, err := parsePort(lowText)
	if err != nil {
		return ports{}, err
	}
	high, err := parsePort(highText)
	if err == nil && high < low {
		err = errRangeOrder
	}
	return ports{low, high}, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port number from 1 to 65535", strings.TrimSpace(s))
	}
	return uint16(n), nil
}
