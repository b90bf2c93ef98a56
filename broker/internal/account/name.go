package account

import "strings"

// Which names are taken, beside letters and digits.
const (
	userName    = "._@+-"
	accountName = "._- "
)

// validName says whether a name has 1 to 64 ASCII letters, digits and the other characters, and no space at its ends.
func validName(name, others string) bool {
	if name == "" || len(name) > 64 || strings.TrimSpace(name) != name {
		return false
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(others, r):
		default:
			return false
		}
	}
	return true
}
