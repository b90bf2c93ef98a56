// Package simd is what the generators of the amd64 kernels share: vectors of one width and what is done with them.
package simd

import (
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Width is the size of a kernel's vectors in bytes: 16, 32 or 64.
type Width int

// The vector registers by number.
var (
	Xs = []VecPhysical{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}
	Ys = []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}
	Zs = []VecPhysical{Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31}
)

// Lanes is the number of 16-byte blocks in a vector.
func (w Width) Lanes() int { return int(w) / 16 }

// Wide reports AVX-512, which has 32 registers and its own moves.
func (w Width) Wide() bool { return w == 64 }

// Vector is register i at the width.
func (w Width) Vector(i int) VecPhysical {
	switch w {
	case 16:
		return Xs[i]
	case 32:
		return Ys[i]
	}
	return Zs[i]
}

// Xor sets dst to a ^ b.
func (w Width) Xor(a Op, b, dst VecPhysical) {
	if w.Wide() {
		VPXORQ(a, b, dst)
		return
	}
	VPXOR(a, b, dst)
}

// Load reads one vector from m, at any alignment.
func (w Width) Load(m Mem, dst VecPhysical) {
	if w.Wide() {
		VMOVDQU64(m, dst)
		return
	}
	VMOVDQU(m, dst)
}

// Store writes one vector to m, at any alignment.
func (w Width) Store(src VecPhysical, m Mem) {
	if w.Wide() {
		VMOVDQU64(src, m)
		return
	}
	VMOVDQU(src, m)
}

// Broadcast fills every block of dst with the block at m.
func (w Width) Broadcast(m Mem, dst VecPhysical) {
	switch w {
	case 16:
		VMOVDQU(m, dst)
	case 32:
		VBROADCASTI128(m, dst)
	default:
		VBROADCASTI32X4(m, dst)
	}
}

// BroadcastNumber fills the low half of every block of dst with the number n, the high half with zero.
func (w Width) BroadcastNumber(n GPPhysical, dst VecPhysical) {
	VMOVQ(n, Xs[Number(dst)])
	switch w {
	case 32:
		VINSERTI128(U8(1), Xs[Number(dst)], dst, dst)
	case 64:
		VSHUFI32X4(U8(0), dst, dst, dst)
	}
}

// Key is round key r of the schedule at base.
func Key(base GPPhysical, r int) Mem { return Mem{Base: base, Disp: 16 * r} }

// Scratch reserves size bytes of stack that start on a boundary of 64 bytes, so that no vector crosses a cache line,
// and puts their address into base.
func Scratch(size int, base GPPhysical) {
	local := AllocLocal(size + 64)
	LEAQ(local, base)
	ADDQ(U8(63), base)
	ANDQ(I8(-64), base)
}

// Erase leaves no key, number or data behind: it clears size bytes of scratch at base and every vector register.
func (w Width) Erase(base GPPhysical, size int) {
	VPXOR(X0, X0, X0)
	step, zero := Width(32), VecPhysical(Y0)
	if w.Wide() {
		step, zero = 64, Z0
	}
	for offset := 0; offset < size; offset += int(step) {
		step.Store(zero, Mem{Base: base, Disp: offset})
	}
	if w.Wide() {
		for i := 16; i < 32; i++ {
			VPXORQ(Zs[i], Zs[i], Zs[i])
		}
	}
	VZEROALL()
}

// Align starts the next instruction on a cache line.
func Align() { Instruction(&ir.Instruction{Opcode: "PCALIGN", Operands: []Op{Imm(64)}}) }

// Number is the number of a register.
func Number(v VecPhysical) int { return int(v.PhysicalIndex()) }

// Log2 is the exponent of a power of two.
func Log2(n int) int { return bits.Len(uint(n)) - 1 }
