package policy

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyward/broker/api"
)

// packageVersion is a version as package managers write it: [epoch:]upstream[-revision] (deb-version(7)).
type packageVersion struct {
	epoch              string // decimal digits without leading zeros; "" is 0
	hasEpoch           bool
	upstream, revision string
}

// parsePackageVersion reads what dpkg and rpm print. It allows the ^ of rpm beside the characters of deb-version(7).
func parsePackageVersion(s string) (packageVersion, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxVersionLength {
		return packageVersion{}, errors.New("a version has at most 128 characters")
	}
	v := packageVersion{upstream: s}
	if epoch, rest, ok := strings.Cut(s, ":"); ok {
		if epoch == "" || strings.Trim(epoch, "0123456789") != "" {
			return packageVersion{}, fmt.Errorf("%q has no number before the colon", s)
		}
		v.epoch, v.hasEpoch, v.upstream = trimZeros(epoch), true, rest
	}
	if i := strings.LastIndexByte(v.upstream, '-'); i >= 0 {
		v.upstream, v.revision = v.upstream[:i], v.upstream[i+1:]
	}
	if v.upstream == "" {
		return packageVersion{}, errors.New("a package's version is needed, for example 3.0.11-1~deb12u2")
	}
	if i := strings.IndexFunc(v.upstream+v.revision, func(r rune) bool { return !versionRune(r) }); i >= 0 {
		return packageVersion{}, fmt.Errorf("%q holds a character that no package's version has", s)
	}
	return v, nil
}

func versionRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".+-~:_^", r)
}

// compare orders versions as dpkg does, which is as rpm does but for characters that only one of them allows.
func (v packageVersion) compare(w packageVersion) int {
	return cmp.Or(compareDigits(v.epoch, w.epoch), comparePart(v.upstream, w.upstream), comparePart(v.revision, w.revision))
}

// against compares v, which was found, with what a rule wants. A rule that names no epoch leaves the epoch out: otherwise
// ">= 9.2" would hold for every version of a package that has an epoch.
func (v packageVersion) against(want packageVersion) int {
	if !want.hasEpoch {
		v.epoch = ""
	}
	return v.compare(want)
}

// comparePart compares runs of other characters and of digits in turn (deb-version(7), "Sorting algorithm").
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // equal weights but for the end and digits, which the loop's condition excludes for both
		}
		m, n := leadingDigits(a), leadingDigits(b)
		if c := compareDigits(trimZeros(m), trimZeros(n)); c != 0 {
			return c
		}
		a, b = a[len(m):], b[len(n):]
	}
	return 0
}

// weight orders the first character of a part: ~ before the end, the end before ^, letters before the rest.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] == '^':
		return 1
	case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func compilePackageVersion(c api.Condition) (test, error) {
	from, to, err := ends(c, parsePackageVersion)
	if err != nil {
		return nil, err
	}
	if from.hasEpoch != to.hasEpoch {
		return nil, errors.New("give both ends of the range an epoch, or neither")
	}
	if from.compare(to) > 0 {
		return nil, errRangeOrder
	}
	return func(values []string, _ time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		got, err := parsePackageVersion(text)
		if err != nil {
			return false, fmt.Errorf("%q is not a package's version", text)
		}
		return ordered(c.Operator, got.against(from), got.against(to)), nil
	}, nil
}
