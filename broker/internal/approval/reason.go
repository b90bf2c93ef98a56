package approval

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"keyward/broker/internal/problem"
)

// MaxReason is the longest reason that a person gives, in characters.
const MaxReason = 1024

// Reason is what a person gave as a reason, without surrounding space, or why it cannot be kept.
func Reason(text string) (string, error) {
	text = strings.TrimSpace(text)
	if utf8.RuneCountInString(text) > MaxReason || !Plain(text, 4*MaxReason) {
		return "", problem.Invalid("reason", "is longer than 1024 characters or not plain text")
	}
	return text, nil
}

// Plain says whether text is at most so many bytes of UTF-8 without control characters but line ends and tabs.
func Plain(text string, most int) bool {
	return len(text) <= most && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t'
	})
}
