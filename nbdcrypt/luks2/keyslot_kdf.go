package luks2

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"hash"

	"golang.org/x/crypto/argon2"

	"keyward/nbdcrypt/keymem"
)

// What a slot may cost. cryptsetup picks its parameters for two seconds on the machine that makes the slot, at most 1 GiB
// by default; these bounds leave room for slower readers and refuse what only exhausts them.
const (
	maxArgonMemory  = 1 << 20  // KiB
	maxArgonWork    = 64 << 20 // KiB of memory times passes
	maxArgonLanes   = 4        // as cryptsetup's own limit
	maxPBKDF2       = 50_000_000
	minPBKDF2       = 1000
	minSlotSalt     = 8
	maxSlotSalt     = 64
	convertKeyslots = "make a slot with less by: cryptsetup luksConvertKey --pbkdf-memory 262144"
)

// kdf turns a passphrase into the key of a slot's area (LUKS2 On-Disk Format Specification, 3.3).
type kdf struct {
	kind string // pbkdf2, argon2i or argon2id
	salt []byte
	// hash and iterations of PBKDF2.
	hash       string
	iterations int
	// time, memory in KiB and lanes of Argon2 (RFC 9106).
	time, memory, lanes int
}

func readKDF(n node) kdf {
	k := kdf{kind: n.text("type"), salt: n.salt("salt")}
	switch k.kind {
	case "pbkdf2":
		n.only("type", "salt", "hash", "iterations")
		k.hash, k.iterations = n.text("hash"), n.integer("iterations")
		if k.hash != "sha256" && k.hash != "sha512" {
			n.fail("hash", "%.32q; sha256 and sha512 are accepted", k.hash)
		}
		if k.iterations < minPBKDF2 || k.iterations > maxPBKDF2 {
			n.fail("iterations", "%d; %d to %d are accepted", k.iterations, minPBKDF2, maxPBKDF2)
		}
	case "argon2i", "argon2id":
		n.only("type", "salt", "time", "memory", "cpus")
		k.time, k.memory, k.lanes = n.integer("time"), n.integer("memory"), n.integer("cpus")
		if k.lanes < 1 || k.lanes > maxArgonLanes {
			n.fail("cpus", "%d; 1 to %d are accepted", k.lanes, maxArgonLanes)
		}
		if k.memory < 8*k.lanes || k.memory > maxArgonMemory {
			n.fail("memory", "%d KiB; %d to %d are accepted; %s", k.memory, 8*k.lanes, maxArgonMemory, convertKeyslots)
		}
		if k.time < 1 || int64(k.time)*int64(k.memory) > maxArgonWork {
			n.fail("time", "%d passes over %d KiB are too much work; %s", k.time, k.memory, convertKeyslots)
		}
	default:
		n.fail("type", "%.32q; pbkdf2, argon2i and argon2id are accepted", k.kind)
	}
	return k
}

// salt is a field of 8 to 64 bytes in base64.
func (n node) salt(name string) []byte {
	b, err := base64.StdEncoding.Strict().DecodeString(n.text(name))
	if err != nil || len(b) < minSlotSalt || len(b) > maxSlotSalt {
		n.fail(name, "not %d to %d bytes in base64", minSlotSalt, maxSlotSalt)
		return nil
	}
	return b
}

// derive runs the function. What passes through the Go heap on the way (the passphrase, Argon2's memory) cannot be wiped
// there; it is the reason to adopt a volume in a process of its own rather than in the agent.
func (k kdf) derive(passphrase []byte, size int) (*keymem.Key, error) {
	switch k.kind {
	case "argon2i":
		return keymem.FromBytes(argon2.Key(passphrase, k.salt, uint32(k.time), uint32(k.memory), uint8(k.lanes), uint32(size)))
	case "argon2id":
		return keymem.FromBytes(argon2.IDKey(passphrase, k.salt, uint32(k.time), uint32(k.memory), uint8(k.lanes), uint32(size)))
	}
	var h func() hash.Hash = sha256.New
	if k.hash == "sha512" {
		h = sha512.New
	}
	key, err := pbkdf2.Key(h, string(passphrase), k.salt, k.iterations, size)
	if err != nil {
		return nil, fmt.Errorf("derive the slot's key: %w", err)
	}
	return keymem.FromBytes(key)
}
