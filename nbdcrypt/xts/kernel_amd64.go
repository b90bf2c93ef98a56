//go:build !purego

package xts

//go:generate sh -c "cd ../internal/_asm && go run ./xts -out ../../xts/xts_amd64.s -stubs ../../xts/stubs_amd64.go -pkg xts"

import "github.com/klauspost/cpuid/v2"

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
