package policy

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"time"

	"keyward/broker/api"
)

// A number is compared as it is written: no rounding makes two different ones equal, and no exponent makes a huge one.
var number = regexp.MustCompile(`^-?[0-9]{1,40}(\.[0-9]{1,40})?$`)

func parseNumber(s string) (*big.Rat, error) {
	s = strings.TrimSpace(s)
	if !number.MatchString(s) {
		return nil, fmt.Errorf("%.60q is not a number such as 17 or -2.5", s)
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	return n, nil
}

func compileNumber(c api.Condition) (test, error) {
	from, to, err := ends(c, parseNumber)
	if err != nil {
		return nil, err
	}
	if from.Cmp(to) > 0 {
		return nil, errRangeOrder
	}
	return func(values []string, _ time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		n, err := parseNumber(text)
		if err != nil {
			return false, err
		}
		return ordered(c.Operator, n.Cmp(from), n.Cmp(to)), nil
	}, nil
}
