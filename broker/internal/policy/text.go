package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

func compileText(c api.Condition) (test, error) {
	var holds func(string) bool
	switch c.Operator {
	case api.OpEqual:
		holds = func(s string) bool { return s == c.Value }
	case api.OpNotEqual:
		holds = func(s string) bool { return s != c.Value }
	case api.OpStartsWith:
		holds = func(s string) bool { return strings.HasPrefix(s, c.Value) }
	case api.OpContains:
		holds = func(s string) bool { return strings.Contains(s, c.Value) }
	case api.OpIn:
		list, err := cutList(c.Value)
		if err != nil {
			return nil, err
		}
		holds = func(s string) bool { return slices.Contains(list, s) }
	case api.OpMatches:
		// Compiled alone first, so that an unbalanced parenthesis cannot reach out of the anchored group.
		if _, err := regexp.Compile(c.Value); err != nil {
			return nil, fmt.Errorf("not a regular expression (RE2 syntax): %w", err)
		}
		re, err := regexp.Compile(`\A(?:` + c.Value + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("not a regular expression (RE2 syntax): %w", err)
		}
		holds = re.MatchString
	default:
		return nil, fmt.Errorf("text does not take %q", c.Operator)
	}
	return func(values []string, _ time.Time) (bool, error) {
		got, err := scalar(values)
		return err == nil && holds(got), err
	}, nil
}
