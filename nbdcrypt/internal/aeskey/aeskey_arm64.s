//go:build !purego

#include "textflag.h"

// func subWord(word uint32) uint32
// SubWord of FIPS 197 in constant time: with the word in all four columns ShiftRows changes nothing.
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVWU word+0(FP), R0
	VDUP  R0, V0.S4
	VEOR  V1.B16, V1.B16, V1.B16
	AESE  V1.B16, V0.B16
	VMOV  V0.S[0], R0
	VEOR  V0.B16, V0.B16, V0.B16
	MOVW  R0, ret+8(FP)
	RET

// func inverseMixColumns(dst, src *byte)
TEXT ·inverseMixColumns(SB), NOSPLIT, $0-16
	MOVD   dst+0(FP), R0
	MOVD   src+8(FP), R1
	VLD1   (R1), [V0.B16]
	AESIMC V0.B16, V0.B16
	VST1   [V0.B16], (R0)
	VEOR   V0.B16, V0.B16, V0.B16
	RET
