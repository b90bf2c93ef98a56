package client

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"keyward/broker/api"
)

// secretSize and pinSize are the decoded lengths of a token's parts, in bytes.
const (
	secretSize = 32
	pinSize    = 32
	tokenLimit = 512
)

// FormatToken writes the text form of an enrolment token.
func FormatToken(t api.EnrolmentToken) string {
	return strings.Join([]string{api.TokenPrefix, t.ID, t.Secret, t.Pin}, ".")
}

// ParseToken reads the text form of an enrolment token. Errors never repeat the text: it holds a secret.
func ParseToken(text string) (api.EnrolmentToken, error) {
	bad := func(why string) (api.EnrolmentToken, error) {
		return api.EnrolmentToken{}, fmt.Errorf("enrolment token: %s; copy it whole, from %q on, as the broker printed it", why, api.TokenPrefix+".")
	}
	text = strings.TrimSpace(text)
	if len(text) > tokenLimit {
		return bad("it is too long")
	}
	parts := strings.Split(text, ".")
	if len(parts) != 4 {
		return bad("it does not have four parts")
	}
	if parts[0] != api.TokenPrefix {
		return bad("it is not of a version that this program knows")
	}
	if parts[1] == "" || strings.ContainsFunc(parts[1], func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return bad("its ID is damaged")
	}
	if err := exact(parts[2], secretSize); err != nil {
		return bad("its secret is damaged")
	}
	if err := exact(parts[3], pinSize); err != nil {
		return bad("its pin is damaged")
	}
	return api.EnrolmentToken{ID: parts[1], Secret: parts[2], Pin: parts[3]}, nil
}

func exact(text string, size int) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return err
	}
	if len(b) != size {
		return errors.New("wrong length")
	}
	return nil
}
