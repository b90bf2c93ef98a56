package recovery

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/crypto/argon2"

	"keyward/broker/client"
)

const (
	shareType = "KEYWARD RECOVERY SHARE"

	// MinPassphrase is the least length of a holder's passphrase in bytes.
	MinPassphrase = 12
	maxPassphrase = 1024

	saltBytes  = 16
	nonceBytes = 12
	tagBytes   = 16
	// A share's body: salt, nonce, and encrypted x and y with their tag.
	shareBytes = saltBytes + nonceBytes + 1 + privateBytes + tagBytes

	// Argon2id (RFC 9106) of version 1: 64 MiB, three passes.
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
)

// ErrPassphrase says that a share does not open: another passphrase, or a changed text. Which of the two cannot be told.
var ErrPassphrase = errors.New("wrong passphrase, or the share was changed")

// Share is one person's share, sealed to their passphrase.
type Share struct {
	KeyID     string
	Holder    string
	Number    int
	Threshold int
	headers   map[string]string
	body      []byte
}

// New makes a key pair and shares its private half; the passphrases are the holders', in their order. The private half is
// gone when it returns: it was never anywhere but here.
func New(holders []string, threshold int, passphrases []string) (PublicKey, [][]byte, error) {
	if err := checkHolders(holders, threshold); err != nil {
		return PublicKey{}, nil, err
	}
	if len(passphrases) != len(holders) {
		return PublicKey{}, nil, fmt.Errorf("%d passphrases for %d holders: each has one", len(passphrases), len(holders))
	}
	for i, p := range passphrases {
		if len(p) < MinPassphrase || len(p) > maxPassphrase {
			return PublicKey{}, nil, fmt.Errorf("the passphrase of %s has %d bytes: choose one of %d to %d", holders[i], len(p), MinPassphrase, maxPassphrase)
		}
		if slices.Contains(passphrases[:i], p) {
			return PublicKey{}, nil, fmt.Errorf("%s has the passphrase of somebody else: each chooses their own", holders[i])
		}
	}
	kem, _, _ := client.DeliverySuite()
	private, err := kem.GenerateKey()
	if err != nil {
		return PublicKey{}, nil, err
	}
	seed, err := private.Bytes()
	if err != nil {
		return PublicKey{}, nil, err
	}
	defer clear(seed)
	key := PublicKey{Bytes: private.PublicKey().Bytes(), Threshold: threshold, Holders: holders}
	key.ID = idOf(key.Bytes)
	points, err := split(seed, len(holders), threshold)
	if err != nil {
		return PublicKey{}, nil, err
	}
	var shares [][]byte
	for i, p := range points {
		text, err := sealShare(key, holders[i], p, passphrases[i])
		clear(p.y)
		if err != nil {
			return PublicKey{}, nil, err
		}
		shares = append(shares, text)
	}
	return key, shares, nil
}

func sealShare(key PublicKey, holder string, p point, passphrase string) ([]byte, error) {
	headers := map[string]string{"Version": version, "Key-ID": key.ID, "Holder": holder, "Number": strconv.Itoa(int(p.x)),
		"Threshold": strconv.Itoa(key.Threshold), "Of": strconv.Itoa(len(key.Holders))}
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	aead, err := derive(passphrase, salt)
	if err != nil {
		return nil, err
	}
	plain := append([]byte{p.x}, p.y...)
	defer clear(plain)
	return pem.EncodeToMemory(&pem.Block{Type: shareType, Headers: headers, Bytes: aead.Seal(salt, nil, plain, aad(headers))}), nil
}

func derive(passphrase string, salt []byte) (cipher.AEAD, error) {
	kek := argon2.IDKey([]byte(passphrase), salt, argonTime, argonMemory, argonThreads, 32)
	defer clear(kek)
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// aad binds the headers: a domain, then names and values in the order of the names, each after its length as four bytes.
func aad(headers map[string]string) []byte {
	fields := []string{"keyward recovery share v1"}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fields = append(fields, name, headers[name])
	}
	var out []byte
	for _, f := range fields {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

// ParseShare reads a share without opening it. What it says of itself is proved when it opens.
func ParseShare(text []byte) (Share, error) {
	block, err := only(text, shareType)
	if err != nil {
		return Share{}, fmt.Errorf("reading a recovery share: %w", err)
	}
	s := Share{KeyID: block.Headers["Key-ID"], Holder: block.Headers["Holder"], headers: block.Headers, body: block.Bytes}
	s.Number, err = strconv.Atoi(block.Headers["Number"])
	if err == nil {
		s.Threshold, err = strconv.Atoi(block.Headers["Threshold"])
	}
	if err != nil || len(s.body) != shareBytes || s.Number < 1 || s.Number > MaxHolders || s.Threshold < 2 || s.Threshold > MaxHolders || len(s.KeyID) != 32 || s.Holder == "" {
		return Share{}, errors.New("reading a recovery share: it is not complete: compare it with the paper or file that it was copied from")
	}
	return s, nil
}

func (s Share) open(passphrase string) (point, error) {
	if len(passphrase) > maxPassphrase {
		return point{}, ErrPassphrase
	}
	aead, err := derive(passphrase, s.body[:saltBytes])
	if err != nil {
		return point{}, err
	}
	plain, err := aead.Open(nil, nil, s.body[saltBytes:], aad(s.headers))
	if err != nil || subtle.ConstantTimeEq(int32(plain[0]), int32(s.Number)) != 1 {
		return point{}, ErrPassphrase
	}
	return point{plain[0], plain[1:]}, nil
}

// Combine opens shares with their holders' passphrases, in the same order, and puts the private key together. The error
// names the share that is wrong.
func Combine(shares []Share, passphrases []string) (PrivateKey, error) {
	if len(shares) == 0 || len(passphrases) != len(shares) {
		return PrivateKey{}, fmt.Errorf("%d passphrases for %d shares: each share has one", len(passphrases), len(shares))
	}
	first := shares[0]
	for i, s := range shares {
		if s.KeyID != first.KeyID {
			return PrivateKey{}, fmt.Errorf("the share of %s is of recovery key %s, that of %s of %s: leave the other out", s.Holder, s.KeyID, first.Holder, first.KeyID)
		}
		for _, other := range shares[:i] {
			if other.Number == s.Number {
				return PrivateKey{}, fmt.Errorf("the share of %s is given twice: it takes %d different ones", s.Holder, first.Threshold)
			}
		}
	}
	if len(shares) < first.Threshold {
		return PrivateKey{}, fmt.Errorf("%d shares are given and %d are needed: ask another holder", len(shares), first.Threshold)
	}
	var points []point
	defer func() {
		for _, p := range points {
			clear(p.y)
		}
	}()
	for i, s := range shares {
		p, err := s.open(passphrases[i])
		if err != nil {
			return PrivateKey{}, fmt.Errorf("the share of %s (number %d) does not open: %w", s.Holder, s.Number, err)
		}
		points = append(points, p)
	}
	seed, err := combine(points)
	if err != nil {
		return PrivateKey{}, err
	}
	k := PrivateKey{func() []byte { return seed }}
	private, err := k.hpke()
	if err != nil || idOf(private.PublicKey().Bytes()) != first.KeyID {
		k.Wipe()
		return PrivateKey{}, fmt.Errorf("the shares do not make recovery key %s: at least one was made for another set; find the set that was made together", first.KeyID)
	}
	return k, nil
}
