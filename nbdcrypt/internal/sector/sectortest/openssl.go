package sectortest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// python is Debian's, with the package that Debian builds on its OpenSSL.
const python = "/usr/bin/python3"

// opensslProgram encrypts sectors with OpenSSL. Its arguments are the mode (the body of a function that returns the
// cipher of sector number n), the key in hex, the size of a sector, the first number and the step.
const opensslProgram = `
import sys, hashlib
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
mode, key, size, number, step = sys.argv[1], bytes.fromhex(sys.argv[2]), *map(int, sys.argv[3:])
plain = sys.stdin.buffer.read()
def xts(n):
    return Cipher(algorithms.AES(key), modes.XTS(n.to_bytes(16, "little")))
def essiv(n):
    e = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor()
    return Cipher(algorithms.AES(key), modes.CBC(e.update(n.to_bytes(16, "little")) + e.finalize()))
for at in range(0, len(plain), size):
    e = {"xts": xts, "essiv": essiv}[mode](number).encryptor()
    sys.stdout.buffer.write(e.update(plain[at:at+size]) + e.finalize())
    number = (number + step) % 2**64
`

// OpenSSL compares every kernel with OpenSSL instead of the reference, for the keys of those lengths. mode is xts or
// essiv.
func (s Subject) OpenSSL(t *testing.T, mode string, keyLens ...int) {
	t.Helper()
	if err := exec.Command(python, "-c", "import cryptography").Run(); err != nil {
		t.Skip("no python3 with OpenSSL's ciphers: apt-get install python3-cryptography")
	}
	s.Reference = func(t testing.TB, key, plain []byte, size int, number, step uint64) []byte {
		cmd := exec.Command(python, "-c", opensslProgram, mode, hex.EncodeToString(key), fmt.Sprint(size), fmt.Sprint(number), fmt.Sprint(step))
		cmd.Stdin = bytes.NewReader(plain)
		var problem bytes.Buffer
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("OpenSSL: %v\n%s", err, &problem)
		}
		return out
	}
	r := rand.New(rand.NewPCG(11, 12))
	for _, keyLen := range keyLens {
		for i, size := range []int{512, 4096} {
			for k, sectors := range []int{1, 7, 16, 65} {
				step := uint64(size / 512)
				number := edges[(i+k)%len(edges)] - uint64(sectors/2)*step
				s.Agree(t, Case{Bytes(r, keyLen), Bytes(r, size*sectors), size, number, step, 3 * k})
			}
		}
	}
}
