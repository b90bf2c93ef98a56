package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

// parseDigest reads a SHA-256 digest in hexadecimal of either case.
func parseDigest(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%.80q is not a SHA-256 digest of 64 hexadecimal digits", s)
	}
	return s, nil
}

func compileDigest(c api.Condition) (test, error) {
	list, err := parseEach(c.Value, parseDigest)
	if err != nil {
		return nil, err
	}
	if len(list) > 1 && c.Operator != api.OpIn {
		return nil, fmt.Errorf("%q takes one digest; \"%s\" takes a list", c.Operator, api.OpIn)
	}
	return func(values []string, _ time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		got, err := parseDigest(text)
		if err != nil {
			return false, err
		}
		return slices.Contains(list, got) != (c.Operator == api.OpNotEqual), nil
	}, nil
}
