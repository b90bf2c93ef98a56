// Command essiv generates the amd64 kernels of AES-CBC-ESSIV, essiv_amd64.s and stubs_amd64.go.
//
// Decryption is parallel inside a sector: a pass decrypts as many blocks as the vectors hold. Encryption is serial
// inside a sector, so that it works on many sectors at a time: VAES-512 on 16, one in each block of 4 vectors, then on
// 8, 4, 2 and 1 as the sectors run out, one in each of so many XMM registers; the narrower kernels only on the latter.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"keyward/asm/simd"
)

// ivRounds is for AES-256: the key of the IVs is a SHA-256.
const ivRounds = 14

func main() {
	ConstraintExpr("!purego")
	for _, k := range []kernel{{"AESNI", 16, 8}, {"VAES256", 32, 8}, {"VAES512", 64, 4}} {
		for _, rounds := range []int{10, 12, 14} {
			(&program{kernel: k, rounds: rounds}).decrypt()
			if k.Width != 32 { // where VAES-256 has nothing of its own to offer
				(&program{kernel: k, rounds: rounds}).encrypt()
			}
		}
	}
	Generate()
}

// kernel is one instruction set's plan.
type kernel struct {
	name string
	simd.Width
	chains int // vectors in flight
}

// blocks is the number of blocks in one pass, and of sectors in one batch of IVs.
func (k kernel) blocks() int { return k.Lanes() * k.chains }

// program is the state of one function while it is generated.
type program struct {
	kernel
	rounds int
	name   string

	data, iv, dst, src, left, size, number, step GPPhysical
	scratch                                      GPPhysical
	offsets, ivs, lines                          Mem // on the stack, on cache lines
	scratchSize                                  int
}

// begin writes the head of a function with the signature of every kernel.
func (p *program) begin(direction string, lines int) {
	p.name = fmt.Sprintf("%s%sR%d", direction, p.kernel.name, p.rounds)
	TEXT(p.name, 0, "func(data, iv *byte, dst, src *byte, sectors, sectorSize int, first, step uint64)")
	Doc(fmt.Sprintf("%s %ss sectors at src into dst, which may be src.", p.name, direction))
	Pragma("noescape")
	p.data, p.iv, p.dst, p.src = RAX, RBX, RDI, RSI
	p.left, p.size, p.number, p.step = RCX, RDX, R8, R9
	for _, a := range []struct {
		name string
		to   GPPhysical
	}{{"data", p.data}, {"iv", p.iv}, {"dst", p.dst}, {"src", p.src},
		{"sectors", p.left}, {"sectorSize", p.size}, {"first", p.number}, {"step", p.step}} {
		Load(Param(a.name), a.to)
	}
	p.scratch = R10
	area := 16 * p.blocks()
	p.scratchSize = 2*area + lines
	simd.Scratch(p.scratchSize, p.scratch)
	p.offsets, p.ivs = Mem{Base: p.scratch}, Mem{Base: p.scratch, Disp: area}
	p.lines = Mem{Base: p.scratch, Disp: 2 * area}
	// offsets[i] = i*step: the distance of each sector of a batch from its first.
	XORQ(R11, R11)
	XORQ(R12, R12)
	for i := range p.blocks() {
		MOVQ(R11, p.offsets.Offset(16*i))
		MOVQ(R12, p.offsets.Offset(16*i+8))
		ADDQ(p.step, R11)
	}
}

func (p *program) end() {
	p.Erase(p.scratch, p.scratchSize)
	RET()
}

// Registers: 0-7 data, 8 and 9 round keys, 10-13 temporaries, 14 the block before. The wide kernel keeps the data keys
// in Z16-30.
func (p *program) d(j int) VecPhysical    { return p.Vector(j) }
func (p *program) temp(j int) VecPhysical { return p.Vector(10 + j) }
func (p *program) before() VecPhysical    { return p.Vector(14) }

// roundKey is the register of round key r, loaded if it does not live there.
func (p *program) roundKey(r int) VecPhysical {
	if p.Wide() {
		return p.Vector(16 + r)
	}
	k := p.Vector(8 + r%2)
	p.Broadcast(simd.Key(p.data, r), k)
	return k
}

func (p *program) loadKeys() {
	if p.Wide() {
		for r := 0; r <= p.rounds; r++ {
			p.Broadcast(simd.Key(p.data, r), p.roundKey(r))
		}
	}
}

// encryptNumbers encrypts the numbers of the next blocks() sectors under the IV key into ivs.
func (p *program) encryptNumbers() {
	base := p.temp(0)
	p.BroadcastNumber(p.number, base)
	for j := range p.chains {
		VPADDQ(p.offsets.Offset(int(p.Width)*j), base, p.d(j))
	}
	for r := 0; r <= ivRounds; r++ {
		k := p.temp(1 + r%2)
		p.Broadcast(simd.Key(p.iv, r), k)
		for j := range p.chains {
			switch r {
			case 0:
				p.Xor(k, p.d(j), p.d(j))
			case ivRounds:
				VAESENCLAST(k, p.d(j), p.d(j))
			default:
				VAESENC(k, p.d(j), p.d(j))
			}
		}
	}
	for j := range p.chains {
		p.Store(p.d(j), p.ivs.Offset(int(p.Width)*j))
	}
	MOVQ(p.step, R13)
	SHLQ(U8(simd.Log2(p.blocks())), R13)
	ADDQ(R13, p.number)
}

// decrypt writes decryption: sector by sector, with the IVs of a batch made together.
func (p *program) decrypt() {
	p.begin("decrypt", 0)
	label := func(name string) string { return p.name + "_" + name }
	p.loadKeys()
	Label(label("batch"))
	TESTQ(p.left, p.left)
	JZ(LabelRef(label("done")))
	p.encryptNumbers()
	// R11 walks over the batch's IVs, R12 is their end.
	LEAQ(p.ivs, R11)
	LEAQ(p.ivs.Offset(16*p.blocks()), R12)

	Label(label("sector"))
	// The block before is in every lane; a pass looks at the last.
	p.Broadcast(Mem{Base: R11}, p.before())
	bytes := 16 * p.blocks()
	MOVQ(p.size, R13)
	SHRQ(U8(simd.Log2(bytes)), R13)
	JZ(LabelRef(label("tail")))
	simd.Align()
	Label(label("loop"))
	p.pass()
	ADDQ(U32(bytes), p.src)
	ADDQ(U32(bytes), p.dst)
	DECQ(R13)
	JNZ(LabelRef(label("loop")))

	Label(label("tail"))
	MOVQ(p.size, R13)
	ANDQ(U32(bytes-16), R13)
	JZ(LabelRef(label("next")))
	p.single(label("single"))

	Label(label("next"))
	DECQ(p.left)
	JZ(LabelRef(label("done")))
	ADDQ(U8(16), R11)
	CMPQ(R11, R12)
	JNE(LabelRef(label("sector")))
	JMP(LabelRef(label("batch")))
	Label(label("done"))
	p.end()
}

// pass decrypts one vector per chain. Every ciphertext block is read before the first plaintext is written over it.
func (p *program) pass() {
	width, last := int(p.Width), p.chains-1
	for j := range p.chains {
		p.Load(Mem{Base: p.src, Disp: width * j}, p.d(j))
	}
	// What the first vector is chained to: the last block before this pass, then all of its own but the last.
	first := p.temp(0)
	switch p.Width {
	case 16:
		VMOVDQA(p.before(), first)
	case 32:
		VPERM2I128(U8(0x21), p.d(0), p.before(), first)
	case 64:
		VALIGNQ(U8(6), p.before(), p.d(0), first)
	}
	if p.Wide() {
		VMOVDQA64(p.d(last), p.before())
	} else {
		VMOVDQA(p.d(last), p.before())
	}
	k := p.roundKey(0)
	for j := range p.chains {
		p.Xor(k, p.d(j), p.d(j))
	}
	for r := 1; r < p.rounds; r++ {
		k := p.roundKey(r)
		for j := range p.chains {
			VAESDEC(k, p.d(j), p.d(j))
		}
	}
	// The last round key and the chaining are added by one instruction.
	k = p.roundKey(p.rounds)
	for j := range p.chains {
		chained := first
		if j > 0 {
			chained = p.temp(1 + j%3)
			p.Xor(Mem{Base: p.src, Disp: width*j - 16}, k, chained)
		} else {
			p.Xor(first, k, chained)
		}
		VAESDECLAST(chained, p.d(j), p.d(j))
	}
	for j := range p.chains {
		p.Store(p.d(j), Mem{Base: p.dst, Disp: width * j})
	}
}

// single decrypts the R13 bytes that are left of a sector block by block.
func (p *program) single(loop string) {
	d, c, before := simd.Xs[0], simd.Xs[1], simd.Xs[14]
	switch p.Width {
	case 32:
		VEXTRACTI128(U8(1), p.before(), before)
	case 64:
		VEXTRACTI32X4(U8(3), p.before(), before)
	}
	Label(loop)
	VMOVDQU(Mem{Base: p.src}, c)
	VPXOR(simd.Key(p.data, 0), c, d)
	for r := 1; r < p.rounds; r++ {
		VAESDEC(simd.Key(p.data, r), d, d)
	}
	VAESDECLAST(simd.Key(p.data, p.rounds), d, d)
	VPXOR(before, d, d)
	VMOVDQA(c, before)
	VMOVDQU(d, Mem{Base: p.dst})
	ADDQ(U8(16), p.src)
	ADDQ(U8(16), p.dst)
	SUBQ(U8(16), R13)
	JNZ(LabelRef(loop))
}
