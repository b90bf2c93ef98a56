//go:build (amd64 || arm64) && !purego

package xts

import (
	"fmt"

	"github.com/klauspost/cpuid/v2"

	"keyward/nbdcrypt/internal/aeskey"
	"keyward/nbdcrypt/internal/sector"
)

// run is the signature of every generated kernel: data and tweak point to schedules of rounds+1 round keys, and sectors
// of sectorSize bytes each are read from src and written to dst, sector i under the tweak first + i*step.
type run func(data, tweak *byte, dst, src *byte, sectors, sectorSize int, first, step uint64)

// assembly is one generated kernel: the functions for each key size, by their number of rounds.
type assembly struct {
	label            string
	features         []cpuid.FeatureID
	encrypt, decrypt map[int]run
	// roofline and width (bytes of a vector) measure the bound of a kernel, where there is a benchmark for it.
	roofline func(passes int)
	width    int
}

func (k *assembly) Name() string      { return k.label }
func (k *assembly) Available() bool   { return cpuid.CPU.Supports(k.features...) }
func (k *assembly) ScheduleSize() int { return 3 * aeskey.Room }

// Expand puts the data key's schedule for encryption, the one for decryption and the tweak key's one after another.
func (k *assembly) Expand(mem, key []byte) (sector.Schedule, error) {
	half := len(key) / 2
	rounds := aeskey.Rounds(half)
	if k.encrypt[rounds] == nil {
		return nil, fmt.Errorf("kernel %s has no AES with a key of %d bytes", k.label, half)
	}
	forward, inverse, tweak := mem[:aeskey.Room], mem[aeskey.Room:2*aeskey.Room], mem[2*aeskey.Room:3*aeskey.Room]
	aeskey.Expand(forward, key[:half])
	aeskey.Invert(inverse, forward, rounds)
	aeskey.Expand(tweak, key[half:])
	return &assemblySchedule{encryptRun: k.encrypt[rounds], decryptRun: k.decrypt[rounds],
		encryptKeys: &forward[0], decryptKeys: &inverse[0], tweakKeys: &tweak[0]}, nil
}

// assemblySchedule points into the cipher's keymem memory, which outlives it.
type assemblySchedule struct {
	encryptRun, decryptRun              run
	encryptKeys, decryptKeys, tweakKeys *byte
}

func (s *assemblySchedule) Encrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.encryptRun(s.encryptKeys, s.tweakKeys, &dst[0], &src[0], len(src)/sectorSize, sectorSize, tweak, step)
}

func (s *assemblySchedule) Decrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.decryptRun(s.decryptKeys, s.tweakKeys, &dst[0], &src[0], len(src)/sectorSize, sectorSize, tweak, step)
}
