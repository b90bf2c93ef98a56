//go:build !purego

package xts

//go:generate sh -c "cd ../internal/_asm && go run ./xtsarm64 -out ../../xts/xts_arm64.s -stubs ../../xts/stubs_arm64.go -pkg xts"

import "github.com/klauspost/cpuid/v2"

func init() {
	registry.Add(&assembly{
		label:    "armv8",
		features: []cpuid.FeatureID{cpuid.AESARM},
		encrypt:  map[int]run{10: encryptARMv8R10, 12: encryptARMv8R12, 14: encryptARMv8R14},
		decrypt:  map[int]run{10: decryptARMv8R10, 12: decryptARMv8R12, 14: decryptARMv8R14},
	})
}
