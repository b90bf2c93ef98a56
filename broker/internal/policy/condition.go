package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keyward/broker/api"
)

// test judges the values of a fact. The error says why the values cannot be read as the fact's type; it fails the rule.
type test func(values []string, now time.Time) (bool, error)

const maxValueLength = 4096

// tests keeps what compile made, which is safe to share and gives the same each time: every appraisal by a policy asks
// for its conditions twice, and an expression that matches text is costly to make.
var tests = struct {
	sync.RWMutex
	made map[condition]test
}{made: map[condition]test{}}

type condition struct {
	fact api.FactName
	api.Condition
}

// What is kept is small: a regular expression can be written short and be large when it repeats something.
const (
	maxTests    = 1024
	maxTestText = 128
)

func mayKeep(info FactInfo, c api.Condition) bool {
	return info.Type != TypeExpression && len(c.Value) <= maxTestText && (c.Operator != api.OpMatches || !strings.Contains(c.Value, "{"))
}

// compile turns a condition into a test, or says what is wrong with it. An expression has no test: it judges all facts.
func compile(info FactInfo, c api.Condition) (test, error) {
	k := condition{info.Name, c}
	tests.RLock()
	made, ok := tests.made[k]
	tests.RUnlock()
	if ok {
		return made, nil
	}
	made, err := compileAnew(info, c)
	if err != nil || !mayKeep(info, c) {
		return made, err
	}
	tests.Lock()
	defer tests.Unlock()
	if len(tests.made) >= maxTests {
		clear(tests.made)
	}
	tests.made[k] = made
	return made, nil
}

func compileAnew(info FactInfo, c api.Condition) (test, error) {
	if !slices.Contains(info.Operators, c.Operator) {
		return nil, fmt.Errorf("%s does not take %q; it takes %s", info.Title, c.Operator, quoted(info.Operators))
	}
	if len(c.Value) > maxValueLength {
		return nil, fmt.Errorf("a value has at most %d bytes", maxValueLength)
	}
	if strings.TrimSpace(c.Value) == "" {
		return nil, errors.New("a value is needed, for example " + info.Example)
	}
	switch info.Type {
	case TypeEnum:
		return compileEnum(info, c)
	case TypeNumber:
		return compileNumber(c)
	case TypeNumberSet:
		return compilePorts(c)
	case TypeSet:
		return compileSet(info, c)
	case TypeVersion:
		return compileVersion(c)
	case TypePackageVersion:
		return compilePackageVersion(c)
	case TypeDigest:
		return compileDigest(c)
	case TypeExpression:
		_, err := expressionOf(c.Value)
		return nil, err
	case TypeAddress:
		return compileAddress(info, c)
	case TypeDate:
		return compileDate(c)
	default:
		return compileText(c)
	}
}

// scalar reads the one value of a fact that is not a set.
func scalar(values []string) (string, error) {
	if len(values) != 1 {
		return "", fmt.Errorf("one value expected, %d reported", len(values))
	}
	return values[0], nil
}

func compileEnum(info FactInfo, c api.Condition) (test, error) {
	want := strings.TrimSpace(c.Value)
	if !slices.Contains(info.Values, want) {
		return nil, fmt.Errorf("%q is not one of %s", want, strings.Join(info.Values, ", "))
	}
	return func(values []string, _ time.Time) (bool, error) {
		got, err := scalar(values)
		if err != nil {
			return false, err
		}
		// An unknown value must not slip through "!=": a machine that reports "BeOS" has not said that it is not Windows.
		if !slices.Contains(info.Values, got) {
			return false, fmt.Errorf("%q is not one of %s", got, strings.Join(info.Values, ", "))
		}
		return (got == want) == (c.Operator == api.OpEqual), nil
	}, nil
}

// ordered applies an operator to the order of a value against both ends of the operand.
func ordered(op api.Operator, first, last int) bool {
	switch op {
	case api.OpEqual, api.OpBetween:
		return first >= 0 && last <= 0
	case api.OpNotEqual:
		return first < 0 || last > 0
	case api.OpLess:
		return first < 0
	case api.OpLessEqual:
		return last <= 0
	case api.OpGreater:
		return last > 0
	case api.OpGreaterEqual:
		return first >= 0
	}
	return false
}

// cutList splits a comma separated list.
func cutList(s string) ([]string, error) {
	return parseEach(s, func(item string) (string, error) { return item, nil })
}

func parseEach[T any](s string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			return nil, errors.New("the list has an empty entry")
		}
		v, err := parse(item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func quoted(ops []api.Operator) string {
	var b strings.Builder
	for i, op := range ops {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", op)
	}
	return b.String()
}

var errRangeOrder = errors.New("the low end of the range comes first")

// cutRange splits "low..high".
func cutRange(s string) (low, high string, err error) {
	low, high, ok := strings.Cut(s, "..")
	low, high = strings.TrimSpace(low), strings.TrimSpace(high)
	if !ok || low == "" || high == "" {
		return "", "", errors.New("a range is written low..high")
	}
	return low, high, nil
}
