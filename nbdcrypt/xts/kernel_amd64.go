//go:build !purego

package xts

//go:generate sh -c "cd ../internal/_asm && go run ./xts -out ../../xts/xts_amd64.s -stubs ../../xts/stubs_amd64.go -pkg xts"

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
	roofline         func(passes int)
	width            int // bytes of a vector
}

func init() {
	registry.Add(
		&assembly{
			label:    "aesni",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX, cpuid.CLMUL},
			encrypt:  map[int]run{10: encryptAESNIR10, 12: encryptAESNIR12, 14: encryptAESNIR14},
			decrypt:  map[int]run{10: decryptAESNIR10, 12: decryptAESNIR12, 14: decryptAESNIR14},
			roofline: rooflineAESNI,
			width:    16,
		},
		&assembly{
			label:    "vaes256",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX2, cpuid.CLMUL, cpuid.VAES, cpuid.VPCLMULQDQ},
			encrypt:  map[int]run{10: encryptVAES256R10, 12: encryptVAES256R12, 14: encryptVAES256R14},
			decrypt:  map[int]run{10: decryptVAES256R10, 12: decryptVAES256R12, 14: decryptVAES256R14},
			roofline: rooflineVAES256,
			width:    32,
		},
		&assembly{
			label: "vaes512",
			features: []cpuid.FeatureID{cpuid.AESNI, cpuid.AVX2, cpuid.CLMUL, cpuid.VAES, cpuid.VPCLMULQDQ,
				cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512VL},
			encrypt:  map[int]run{10: encryptVAES512R10, 12: encryptVAES512R12, 14: encryptVAES512R14},
			decrypt:  map[int]run{10: decryptVAES512R10, 12: decryptVAES512R12, 14: decryptVAES512R14},
			roofline: rooflineVAES512,
			width:    64,
		})
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

// Roofline issues passes times 64 AES rounds, independent of each other, at a kernel's vector width, and returns the
// bytes that went through one round each. It is the bound beside which a kernel's throughput is measured. It reports
// false for a kernel that has no such bound or that this processor lacks.
func Roofline(kernel string, passes int) (bytes int64, ok bool) {
	k, err := registry.ByName(kernel)
	if err != nil {
		return 0, false
	}
	a, ok := k.(*assembly)
	if !ok {
		return 0, false
	}
	a.roofline(passes)
	return int64(passes) * 64 * int64(a.width), true
}
