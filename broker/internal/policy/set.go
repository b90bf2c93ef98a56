package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

// compileSet judges a set of texts. Members of a set whose possible members are known must be among them, so that a
// misspelt name cannot make "does not contain" hold for ever.
func compileSet(info FactInfo, c api.Condition) (test, error) {
	list, err := parseEach(c.Value, func(item string) (string, error) {
		if info.Values != nil && !slices.Contains(info.Values, item) {
			return "", fmt.Errorf("%q is not one of %s", item, strings.Join(info.Values, ", "))
		}
		return item, nil
	})
	if err != nil {
		return nil, err
	}
	return func(values []string, _ time.Time) (bool, error) {
		listed := func(v string) bool { return slices.Contains(list, v) }
		switch c.Operator {
		case api.OpContains:
			return !slices.ContainsFunc(list, func(item string) bool { return !slices.Contains(values, item) }), nil
		case api.OpLacks:
			return !slices.ContainsFunc(values, listed), nil
		default: // only these
			return !slices.ContainsFunc(values, func(v string) bool { return !listed(v) }), nil
		}
	}, nil
}
