//go:build !purego

package essiv

//go:generate sh -c "cd ../internal/_asm && go run ./essiv -out ../../essiv/essiv_amd64.s -stubs ../../essiv/stubs_amd64.go -pkg essiv"

import (
	"fmt"

	"github.com/klauspost/cpuid/v2"

	"keyward/nbdcrypt/internal/aeskey"
	"keyward/nbdcrypt/internal/sector"
)

// run is the signature of every generated kernel: data and iv point to schedules (iv's of 15 round keys), and sectors of
// sectorSize bytes each are read from src and written to dst, sector i with the IV of the number first + i*step.
type run func(data, iv *byte, dst, src *byte, sectors, sectorSize int, first, step uint64)

// assembly is one generated kernel: the functions for each key size, by their number of rounds.
type assembly struct {
	label            string
	features         []cpuid.FeatureID
	encrypt, decrypt map[int]run
}

func init() {
	registry.Add(
		&assembly{
			label:    "aesni",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX},
			encrypt:  map[int]run{10: encryptAESNIR10, 12: encryptAESNIR12, 14: encryptAESNIR14},
			decrypt:  map[int]run{10: decryptAESNIR10, 12: decryptAESNIR12, 14: decryptAESNIR14},
		},
		&assembly{
			label:    "vaes256",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX2, cpuid.VAES},
			encrypt:  map[int]run{10: encryptAESNIR10, 12: encryptAESNIR12, 14: encryptAESNIR14},
			decrypt:  map[int]run{10: decryptVAES256R10, 12: decryptVAES256R12, 14: decryptVAES256R14},
		},
		&assembly{
			label:    "vaes512",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX2, cpuid.VAES, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512VL},
			encrypt:  map[int]run{10: encryptVAES512R10, 12: encryptVAES512R12, 14: encryptVAES512R14},
			decrypt:  map[int]run{10: decryptVAES512R10, 12: decryptVAES512R12, 14: decryptVAES512R14},
		})
}

func (k *assembly) Name() string      { return k.label }
func (k *assembly) Available() bool   { return cpuid.CPU.Supports(k.features...) }
func (k *assembly) ScheduleSize() int { return 3 * aeskey.Room }

// Expand puts the data key's schedule for encryption, the one for decryption and the IV key's one after another.
func (k *assembly) Expand(mem, key []byte) (sector.Schedule, error) {
	rounds := aeskey.Rounds(len(key))
	if k.encrypt[rounds] == nil {
		return nil, fmt.Errorf("kernel %s has no AES with a key of %d bytes", k.label, len(key))
	}
	forward, inverse, iv := mem[:aeskey.Room], mem[aeskey.Room:2*aeskey.Room], mem[2*aeskey.Room:3*aeskey.Room]
	aeskey.Expand(forward, key)
	aeskey.Invert(inverse, forward, rounds)
	err := withIVKey(key, func(ivKey []byte) error {
		aeskey.Expand(iv, ivKey)
		return nil
	})
	return &assemblySchedule{encryptRun: k.encrypt[rounds], decryptRun: k.decrypt[rounds],
		encryptKeys: &forward[0], decryptKeys: &inverse[0], ivKeys: &iv[0]}, err
}

// assemblySchedule points into the cipher's keymem memory, which outlives it.
type assemblySchedule struct {
	encryptRun, decryptRun           run
	encryptKeys, decryptKeys, ivKeys *byte
}

func (s *assemblySchedule) Encrypt(dst, src []byte, sectorSize int, number, step uint64) {
	s.encryptRun(s.encryptKeys, s.ivKeys, &dst[0], &src[0], len(src)/sectorSize, sectorSize, number, step)
}

func (s *assemblySchedule) Decrypt(dst, src []byte, sectorSize int, number, step uint64) {
	s.decryptRun(s.decryptKeys, s.ivKeys, &dst[0], &src[0], len(src)/sectorSize, sectorSize, number, step)
}
