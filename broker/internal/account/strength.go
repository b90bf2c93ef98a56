package account

import (
	"crypto/rand"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"keyward/broker/internal/problem"
)

// The length of passwords, in characters. The longest is the seed product's by default and can be set up to MaxMaxPassword.
const (
	MinPassword        = 8
	DefaultMaxPassword = 32
	MaxMaxPassword     = 128
)

// Specials are the special characters that people are shown as examples; every character that is neither letter, digit
// nor space counts as one.
const Specials = "~!@#$%^&*()+"

// Strength rates a password by the variety of its characters, for the indicator beside the field.
type Strength struct {
	// Score runs from 0 (refused) over 1 (weak) to 4 (very strong).
	Score int    `json:"score"`
	Label string `json:"label"`
	// Missing says what the password still lacks to be accepted.
	Missing []string `json:"missing,omitempty"`
}

var labels = [...]string{"not accepted", "weak", "fair", "strong", "very strong"}

// Rate rates a password that may have up to longest characters.
func Rate(password string, longest int) Strength {
	var upper, lower, digit, special bool
	distinct := map[rune]bool{}
	for _, r := range password {
		distinct[r] = true
		switch {
		case unicode.IsUpper(r):
			upper = true
		case unicode.IsLower(r):
			lower = true
		case unicode.IsDigit(r):
			digit = true
		case !unicode.IsLetter(r) && !unicode.IsSpace(r) && unicode.IsPrint(r):
			special = true
		}
	}
	var s Strength
	lacks := func(really bool, what string) {
		if really {
			s.Missing = append(s.Missing, what)
		}
	}
	n := utf8.RuneCountInString(password)
	lacks(n < MinPassword, fmt.Sprintf("at least %d characters", MinPassword))
	lacks(n > longest, fmt.Sprintf("at most %d characters", longest))
	lacks(!upper, "an upper-case letter")
	lacks(!lower, "a lower-case letter")
	lacks(!digit, "a digit")
	lacks(!special, "a special character such as "+Specials)
	lacks(!utf8.ValidString(password) || strings.ContainsFunc(password, unicode.IsControl), "only characters that can be typed")
	if len(s.Missing) == 0 {
		// All four kinds are there; what is left is how many different characters they are spread over.
		switch d := len(distinct); {
		case d < 7:
			s.Score = 1
		case d < 10:
			s.Score = 2
		case d < 14:
			s.Score = 3
		default:
			s.Score = 4
		}
	}
	s.Label = labels[s.Score]
	return s
}

// checkPassword refuses a password that is not strong enough or that is the user's name.
func (s *Service) checkPassword(field, password, user string) error {
	if r := Rate(password, s.MaxPassword); r.Score == 0 {
		return problem.Invalid(field, "the password needs "+strings.Join(r.Missing, ", "))
	}
	if user != "" && strings.Contains(strings.ToLower(password), strings.ToLower(user)) && len(user) >= 4 {
		return problem.Invalid(field, "the password must not contain the user's name")
	}
	return nil
}

// NewPassword makes a random password that passes every rule: about 119 bits in 20 characters without look-alikes, four
// of which only serve the rules.
func NewPassword() string {
	const alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	var b strings.Builder
	for b.Len() < 20 {
		var c [1]byte
		rand.Read(c[:])
		if int(c[0]) < 256/len(alphabet)*len(alphabet) { // else the first letters would come more often
			b.WriteByte(alphabet[int(c[0])%len(alphabet)])
		}
	}
	return b.String() + "+Aa9"
}
