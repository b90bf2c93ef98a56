package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

// version is a dotted version reduced to what orders it: the leading numbers, and whether a pre-release mark follows.
type version struct {
	numbers []string // decimal digits without leading zeros, so any length compares without overflow
	// stage orders dev < alpha < beta < pre < rc < release.
	stage  int
	serial string // the number behind a pre-release mark, as in rc2
}

const maxVersionLength = 128

// stages in ascending order; a release is len(stages).
var stages = []string{"dev", "alpha", "beta", "pre", "rc"}

// parseVersion reads versions as kernels and distributions print them: "9.180.1104", "6.1.0-18-amd64", "v1.2.0-rc1",
// "3.10.0-1160.el7.x86_64". It needs at least one leading number.
func parseVersion(s string) (version, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxVersionLength {
		return version{}, errors.New("a version has at most 128 characters")
	}
	rest := strings.TrimPrefix(strings.ToLower(s), "v")
	v := version{stage: len(stages)}
	for {
		digits := leadingDigits(rest)
		if digits == "" {
			break
		}
		v.numbers = append(v.numbers, trimZeros(digits))
		rest = rest[len(digits):]
		if rest == "" || !strings.ContainsRune(".-_+~", rune(rest[0])) {
			break
		}
		rest = rest[1:]
	}
	if len(v.numbers) == 0 {
		return version{}, errors.New("a version starts with a number, for example 9.180.1104")
	}
	for i, name := range stages {
		tail, ok := strings.CutPrefix(rest, name)
		if ok && (tail == "" || strings.ContainsRune(".-_+~0123456789", rune(tail[0]))) { // not 5.10-devuan
			v.stage = i
			v.serial = trimZeros(leadingDigits(strings.TrimLeft(tail, ".-_")))
		}
	}
	for len(v.numbers) > 0 && v.numbers[len(v.numbers)-1] == "" { // 1.2.0 equals 1.2
		v.numbers = v.numbers[:len(v.numbers)-1]
	}
	return v, nil
}

// compare orders versions number by number.
func (v version) compare(w version) int {
	return cmp.Or(
		slices.CompareFunc(v.numbers, w.numbers, compareDigits),
		cmp.Compare(v.stage, w.stage),
		compareDigits(v.serial, w.serial),
	)
}

// compareDigits orders decimal numbers without leading zeros; the empty string is zero.
func compareDigits(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func leadingDigits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

func trimZeros(digits string) string { return strings.TrimLeft(digits, "0") }

// ends reads the value of a condition, or both ends of its range.
func ends[T any](c api.Condition, parse func(string) (T, error)) (from, to T, err error) {
	low, high := c.Value, c.Value
	if c.Operator == api.OpBetween {
		if low, high, err = cutRange(c.Value); err != nil {
			return from, to, err
		}
	}
	if from, err = parse(low); err == nil {
		to, err = parse(high)
	}
	return from, to, err
}

func compileVersion(c api.Condition) (test, error) {
	from, to, err := ends(c, parseVersion)
	if err != nil {
		return nil, err
	}
	if from.compare(to) > 0 {
		return nil, errRangeOrder
	}
	return func(values []string, _ time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		got, err := parseVersion(text)
		if err != nil {
			return false, fmt.Errorf("%q is not a version", text)
		}
		return ordered(c.Operator, got.compare(from), got.compare(to)), nil
	}, nil
}
