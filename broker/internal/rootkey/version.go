package rootkey

import (
	"fmt"
	"strconv"
	"strings"
)

// versioned is a place that gives a key newer versions, of which the newest encrypts.
type versioned interface {
	// version is the one that encrypted; 0 when it cannot be told.
	version(sealed []byte) int
}

// version reads what the API documents of ciphertexts: "vault:v3:" and Base64 behind it.
func (t *transit) version(sealed []byte) int {
	rest, ok := strings.CutPrefix(string(sealed[:min(len(sealed), 32)]), "vault:v")
	number, _, found := strings.Cut(rest, ":")
	n, err := strconv.Atoi(number)
	if !ok || !found || err != nil || n < 1 {
		return 0
	}
	return n
}

// Version is the version of the key that wrapped something; 0 when its place has none, or it was not wrapped there.
func (h *Held) Version(wrapped []byte) int {
	place, ok := h.place.(versioned)
	if !ok || len(wrapped) < 2 || wrapped[0] != wrapVersion {
		return 0
	}
	return place.version(wrapped[1:])
}

// Newest is the version that wraps now; 0 when the key's place has no versions. It asks the place, by having it encrypt: that
// is what the broker may do, and not every token may look at the key itself.
func (h *Held) Newest() (int, error) {
	place, ok := h.place.(versioned)
	if !ok {
		return 0, nil
	}
	sealed, err := h.place.encrypt(bound([]byte(probeAAD)), make([]byte, 32))
	h.note(err)
	if err != nil {
		return 0, fmt.Errorf("asking for the newest version of root key %s: %w", h.ID(), err)
	}
	return place.version(sealed), nil
}
