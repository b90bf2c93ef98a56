package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"keyward/broker/internal/problem"
)

// parameters of Argon2id (RFC 9106). Hashes are stored as PHC strings, so each says what it was made with.
type parameters struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// current is OWASP's recommendation for the least memory: with two at a time a broker stays small.
var current = parameters{memory: 19 << 10, time: 2, threads: 1}

const (
	saltLen = 16
	hashLen = 32
	// A stored hash with more than this was not made by us and is not computed.
	maxMemory  = 64 << 10
	maxTime    = 10
	maxThreads = 8
	// hashWait is how long a log-on waits for its turn.
	hashWait = 5 * time.Second
	// releaseAfter is how long after the last hash its memory is given back.
	releaseAfter = time.Second
)

// hasher bounds how many hashes are computed at the same time, because each takes memory.
type hasher struct {
	turns chan struct{}
	// use is what new hashes are made with; dummy costs the same.
	use   parameters
	dummy string
	// release gives the memory of past hashes back to the system when nobody has logged on for a moment: the runtime
	// alone would keep a small broker twice its size for minutes.
	release *time.Timer
}

func newHasher(use parameters) *hasher {
	h := &hasher{use: use, turns: make(chan struct{}, 2), release: time.AfterFunc(time.Hour, debug.FreeOSMemory)}
	h.release.Stop()
	// Compared with when there is no such user, so that the time of the answer does not tell.
	h.dummy = phc(use, make([]byte, saltLen), make([]byte, hashLen))
	return h
}

func (h *hasher) turn(ctx context.Context) (func(), error) {
	timer := time.NewTimer(hashWait)
	defer timer.Stop()
	select {
	case h.turns <- struct{}{}:
		return func() {
			<-h.turns
			h.release.Reset(releaseAfter)
		}, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, problem.Unavailable("Too many people log on at the same time.")
}

// hash makes the PHC string of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	done, err := h.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	salt := make([]byte, saltLen)
	rand.Read(salt)
	return phc(h.use, salt, derive(h.use, password, salt)), nil
}

// matches compares a password with a PHC string; an empty one stands for a user that does not exist and costs as much.
// outdated says that the hash was made with other parameters than today's.
func (h *hasher) matches(ctx context.Context, password, stored string) (ok, outdated bool, err error) {
	done, err := h.turn(ctx)
	if err != nil {
		return false, false, err
	}
	defer done()
	known := stored != ""
	if !known {
		stored = h.dummy
	}
	p, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(derive(p, password, salt), want) == 1
	return ok && known, p != h.use, nil
}

func derive(p parameters, password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, hashLen)
}

// phc writes the PHC string format: $argon2id$v=19$m=...,t=...,p=...$salt$hash.
func phc(p parameters, salt, hash []byte) string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads, b.EncodeToString(salt), b.EncodeToString(hash))
}

var errPHC = errors.New("a stored password hash is damaged; set the user's password again")

func parsePHC(s string) (p parameters, salt, hash []byte, err error) {
	parts := strings.Split(s, "$")
	if len(s) > 256 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errPHC
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, nil, nil, errPHC
	}
	if p.memory < 8 || p.memory > maxMemory || p.time < 1 || p.time > maxTime || p.threads < 1 || p.threads > maxThreads {
		return p, nil, nil, errPHC
	}
	b := base64.RawStdEncoding.Strict()
	if salt, err = b.DecodeString(parts[4]); err != nil || len(salt) < 8 {
		return p, nil, nil, errPHC
	}
	if hash, err = b.DecodeString(parts[5]); err != nil || len(hash) != hashLen {
		return p, nil, nil, errPHC
	}
	if phc(p, salt, hash) != s {
		return p, nil, nil, errPHC
	}
	return p, salt, hash, nil
}
