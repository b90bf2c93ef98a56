// Command _asm generates the amd64 kernels of AES-XTS, ../xts_amd64.s and ../stubs_amd64.go; `go generate` in the folder
// above runs it. It is a module of its own so that its libraries never enter the product.
//
// One call of a kernel covers many sectors. The three kernels share one plan and differ in the width of a vector:
// AES-NI works on 8 vectors of one block, VAES-256 on 8 of two, VAES-512 on 4 of four.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// polynomial is x^7 + x^2 + x + 1, what x^128 is in the field of IEEE 1619.
const polynomial = 0x87

func main() {
	ConstraintExpr("!purego")
	constants()
	for _, k := range []kernel{aesNI, vaes256, vaes512} {
		for _, rounds := range []int{10, 12, 14} {
			k.generate(rounds, true)
			k.generate(rounds, false)
		}
		k.roofline()
	}
	subWord()
	inverseMixColumns()
	Generate()
}

// kernel is one instruction set's plan.
type kernel struct {
	name   string
	width  int // bytes of a vector
	chains int // vectors in flight
	// wide kernels have 32 registers: keys and tweaks stay in them.
	wide bool
}

var (
	aesNI   = kernel{name: "AESNI", width: 16, chains: 8}
	vaes256 = kernel{name: "VAES256", width: 32, chains: 8}
	vaes512 = kernel{name: "VAES512", width: 64, chains: 4, wide: true}
)

// blocks is the number of 16-byte blocks in one pass of the inner loop, and of sectors in one batch of tweaks.
func (k kernel) blocks() int { return k.width / 16 * k.chains }

// vector is register i at the kernel's width.
func (k kernel) vector(i int) VecPhysical {
	switch k.width {
	case 16:
		return xmm[i]
	case 32:
		return ymm[i]
	}
	return zmm[i]
}

var powers, poly Mem

// constants lays out x^0 .. x^15 and the polynomial, one block each, for loads of any width.
func constants() {
	powers = GLOBL("xtsPowers", RODATA|NOPTR)
	for i := range 16 {
		DATA(16*i, U64(1<<i))
		DATA(16*i+8, U64(0))
	}
	poly = GLOBL("xtsPolynomial", RODATA|NOPTR)
	for i := range 4 {
		DATA(16*i, U64(polynomial))
		DATA(16*i+8, U64(0))
	}
}

func (k kernel) xor(a Op, b, dst VecPhysical) {
	if k.wide {
		VPXORQ(a, b, dst)
		return
	}
	VPXOR(a, b, dst)
}

func (k kernel) load(m Mem, dst VecPhysical) {
	if k.wide {
		VMOVDQU64(m, dst)
		return
	}
	VMOVDQU(m, dst)
}

func (k kernel) store(src VecPhysical, m Mem) {
	if k.wide {
		VMOVDQU64(src, m)
		return
	}
	VMOVDQU(src, m)
}

// broadcast fills every block of dst with the block at m.
func (k kernel) broadcast(m Mem, dst VecPhysical) {
	switch k.width {
	case 16:
		VMOVDQU(m, dst)
	case 32:
		VBROADCASTI128(m, dst)
	default:
		VBROADCASTI32X4(m, dst)
	}
}

// generate writes one direction of one key size:
//
//	func encryptVAES512R14(data, tweak *byte, dst, src *byte, sectors, sectorSize int, first, step uint64)
//
// data is the data key's schedule (for decryption the equivalent inverse one), tweak the tweak key's encryption schedule.
func (k kernel) generate(rounds int, encrypt bool) {
	direction := "decrypt"
	if encrypt {
		direction = "encrypt"
	}
	name := fmt.Sprintf("%s%sR%d", direction, k.name, rounds)
	TEXT(name, 0, "func(data, tweak *byte, dst, src *byte, sectors, sectorSize int, first, step uint64)")
	Doc(fmt.Sprintf("%s %ss sectors at src into dst, which may be src.", name, direction))
	Pragma("noescape")

	p := &program{kernel: k, rounds: rounds, encrypt: encrypt, name: name}
	p.arguments()
	p.prologue()
	p.batch()
	p.epilogue()
}

// program is the state of one function while it is generated.
type program struct {
	kernel
	rounds  int
	encrypt bool
	name    string

	data, tweak, dst, src, left, size, number, step GPPhysical
	offsets, sectorTweaks, current                  Mem // 16-byte aligned scratch on the stack
	scratchBase                                     GPPhysical
}

func (p *program) arguments() {
	p.data, p.tweak, p.dst, p.src = RAX, RBX, RDI, RSI
	p.left, p.size, p.number, p.step = RCX, RDX, R8, R9
	for _, a := range []struct {
		name string
		to   GPPhysical
	}{{"data", p.data}, {"tweak", p.tweak}, {"dst", p.dst}, {"src", p.src},
		{"sectors", p.left}, {"sectorSize", p.size}, {"first", p.number}, {"step", p.step}} {
		Load(Param(a.name), a.to)
	}
	// Three areas of one block a sector of the batch, on a boundary of 64 bytes so that no vector crosses a line.
	area := 16 * p.blocks()
	local := AllocLocal(3*area + 64)
	p.scratchBase = R10
	LEAQ(local, R10)
	ADDQ(U8(63), R10)
	ANDQ(I8(-64), R10)
	p.offsets = Mem{Base: R10}
	p.sectorTweaks = Mem{Base: R10, Disp: area}
	p.current = Mem{Base: R10, Disp: 2 * area}
}

// Registers of the wide kernel: Z0-3 data, Z4-7 tweaks, Z8-11 temporaries, Z12-15 last-round keys, Z16-30 data keys,
// Z31 polynomial. Of the others: 0-7 data, 8 and 9 round keys, 10-13 temporaries, 14 polynomial; tweaks on the stack.
func (p *program) d(j int) VecPhysical { return p.vector(j) }
func (p *program) t(j int) VecPhysical { return p.vector(4 + j) }
func (p *program) temp(j int) VecPhysical {
	if p.wide {
		return p.vector(8 + j)
	}
	return p.vector(10 + j)
}
func (p *program) poly() VecPhysical {
	if p.wide {
		return p.vector(31)
	}
	return p.vector(14)
}
func (p *program) roundKey(r int) VecPhysical {
	if p.wide {
		return p.vector(16 + r)
	}
	return p.vector(8 + r%2)
}

func key(base GPPhysical, r int) Mem { return Mem{Base: base, Disp: 16 * r} }

func (p *program) prologue() {
	if p.wide {
		for r := 0; r <= p.rounds; r++ {
			p.broadcast(key(p.data, r), p.roundKey(r))
		}
	}
	p.load(poly, p.poly())
	// offsets[i] = i*step: the distance of each sector of a batch from its first.
	XORQ(R11, R11)
	XORQ(R12, R12)
	for i := range p.blocks() {
		MOVQ(R11, p.offsets.Offset(16*i))
		MOVQ(R12, p.offsets.Offset(16*i+8))
		ADDQ(p.step, R11)
	}
}

// batch walks over the sectors: tweaks for as many sectors as fit into the vectors, then those sectors one by one.
func (p *program) batch() {
	batch, sector, next, done := p.name+"_batch", p.name+"_sector", p.name+"_next", p.name+"_done"
	Label(batch)
	TESTQ(p.left, p.left)
	JZ(LabelRef(done))
	p.encryptTweaks()
	// R11 walks over the batch's tweaks, R12 is their end.
	LEAQ(p.sectorTweaks, R11)
	LEAQ(p.sectorTweaks.Offset(16*p.blocks()), R12)

	Label(sector)
	p.firstTweaks()
	p.sector()
	Label(next)
	DECQ(p.left)
	JZ(LabelRef(done))
	ADDQ(U8(16), R11)
	CMPQ(R11, R12)
	JNE(LabelRef(sector))
	JMP(LabelRef(batch))
	Label(done)
}

// encryptTweaks encrypts the next sectors' numbers under the tweak key into sectorTweaks.
func (p *program) encryptTweaks() {
	base := p.temp(0)
	VMOVQ(p.number, xmm[index(base)])
	switch p.width {
	case 32:
		VINSERTI128(U8(1), xmm[index(base)], base, base)
	case 64:
		VSHUFI32X4(U8(0), base, base, base)
	}
	for j := range p.chains {
		VPADDQ(p.offsets.Offset(p.width*j), base, p.d(j))
	}
	for r := 0; r <= p.rounds; r++ {
		k := p.temp(1 + r%2)
		p.broadcast(key(p.tweak, r), k)
		for j := range p.chains {
			switch r {
			case 0:
				p.xor(k, p.d(j), p.d(j))
			case p.rounds:
				VAESENCLAST(k, p.d(j), p.d(j))
			default:
				VAESENC(k, p.d(j), p.d(j))
			}
		}
	}
	for j := range p.chains {
		p.store(p.d(j), p.sectorTweaks.Offset(p.width*j))
	}
	// number += blocks*step
	MOVQ(p.step, R13)
	SHLQ(U8(log2(p.blocks())), R13)
	ADDQ(R13, p.number)
}

// firstTweaks spreads the sector's tweak at R11 into the tweaks of its first blocks: block i gets T times x^i.
// With T = lo + hi*x^64 and c = x^i, i < 16: T*c = lo*c + (hi*c mod x^64)*x^64 + (hi*c div x^64)*polynomial.
func (p *program) firstTweaks() {
	base := p.temp(0)
	p.broadcast(Mem{Base: R11}, base)
	for j := range p.chains {
		to := p.temp(1)
		if p.wide {
			to = p.t(j)
		}
		p.timesPower(base, powers.Offset(p.width*j), to, p.temp(2), p.temp(3))
		if !p.wide {
			p.store(to, p.current.Offset(p.width*j))
		}
	}
}

// timesPower sets dst to t times the powers at c; a and b are scratch.
func (p *program) timesPower(t VecPhysical, c Mem, dst, a, b VecPhysical) {
	p.load(c, dst)
	VPCLMULQDQ(U8(0x01), dst, t, a)      // hi*c
	VPCLMULQDQ(U8(0x00), dst, t, dst)    // lo*c
	VPCLMULQDQ(U8(0x01), p.poly(), a, b) // (hi*c div x^64) * polynomial
	VPSLLDQ(U8(8), a, a)                 // (hi*c mod x^64) * x^64
	if p.wide {
		VPTERNLOGQ(U8(0x96), a, b, dst)
		return
	}
	p.xor(a, dst, dst)
	p.xor(b, dst, dst)
}

// advance multiplies tweak vector t by x^blocks in place: a byte shift, and what falls out times the polynomial.
func (p *program) advance(t, a VecPhysical) {
	bytes := p.blocks() / 8
	VPSRLDQ(U8(16-bytes), t, a)
	VPSLLDQ(U8(bytes), t, t)
	VPCLMULQDQ(U8(0x00), p.poly(), a, a)
	p.xor(a, t, t)
}

// sector works through one sector: full passes, then single blocks.
func (p *program) sector() {
	loop, tail, single, end := p.name+"_loop", p.name+"_tail", p.name+"_single", p.name+"_end"
	bytes := 16 * p.blocks()
	MOVQ(p.size, R13)
	SHRQ(U8(log2(bytes)), R13)
	JZ(LabelRef(tail))
	align()
	Label(loop)
	p.pass()
	ADDQ(U32(bytes), p.src)
	ADDQ(U32(bytes), p.dst)
	DECQ(R13)
	JNZ(LabelRef(loop))

	Label(tail)
	MOVQ(p.size, R13)
	ANDQ(U32(bytes-16), R13)
	JZ(LabelRef(end))
	// The first block's tweak is the lowest of the current ones.
	t, d := xmm[index(p.temp(0))], xmm[0]
	if p.wide {
		VMOVDQA(xmm[4], t)
	} else {
		VMOVDQU(p.current, t)
	}
	Label(single)
	VPXOR(Mem{Base: p.src}, t, d)
	VPXOR(key(p.data, 0), d, d)
	for r := 1; r < p.rounds; r++ {
		p.round(key(p.data, r), d)
	}
	p.last(key(p.data, p.rounds), d)
	VPXOR(t, d, d)
	VMOVDQU(d, Mem{Base: p.dst})
	p.double(t, xmm[index(p.temp(1))], xmm[index(p.temp(2))], xmm[index(p.temp(3))])
	ADDQ(U8(16), p.src)
	ADDQ(U8(16), p.dst)
	SUBQ(U8(16), R13)
	JNZ(LabelRef(single))
	Label(end)
}

// double multiplies the one tweak t by x.
func (p *program) double(t, c, a, b VecPhysical) {
	VMOVDQU(powers.Offset(16), c)
	VPCLMULQDQ(U8(0x01), c, t, a)
	VPCLMULQDQ(U8(0x00), c, t, c)
	VPSRLDQ(U8(8), a, b)
	VPSLLDQ(U8(8), a, a)
	VMOVDQU(poly, t)
	VPCLMULQDQ(U8(0x00), t, b, b)
	VPXOR(a, c, c)
	VPXOR(b, c, t)
}

func (p *program) round(k Op, d VecPhysical) {
	if p.encrypt {
		VAESENC(k, d, d)
		return
	}
	VAESDEC(k, d, d)
}

func (p *program) last(k Op, d VecPhysical) {
	if p.encrypt {
		VAESENCLAST(k, d, d)
		return
	}
	VAESDECLAST(k, d, d)
}

// pass works on one vector per chain and moves the tweaks on.
func (p *program) pass() {
	if p.wide {
		p.passWide()
		return
	}
	p.passNarrow()
}

func (p *program) passWide() {
	for j := range p.chains {
		VMOVDQU64(Mem{Base: p.src, Disp: p.width * j}, p.d(j))
		VPTERNLOGQ(U8(0x96), p.t(j), p.roundKey(0), p.d(j))
	}
	final := func(j int) VecPhysical { return p.vector(12 + j) }
	for r := 1; r < p.rounds; r++ {
		for j := range p.chains {
			p.round(p.roundKey(r), p.d(j))
		}
		// One tweak vector moves on in each of the first rounds, where the shuffle port is idle.
		if j := r - 1; j < p.chains {
			p.xor(p.roundKey(p.rounds), p.t(j), final(j))
			p.advance(p.t(j), p.temp(j))
		}
	}
	for j := range p.chains {
		p.last(final(j), p.d(j))
	}
	for j := range p.chains {
		VMOVDQU64(p.d(j), Mem{Base: p.dst, Disp: p.width * j})
	}
}

func (p *program) passNarrow() {
	k := p.roundKey(0)
	p.broadcast(key(p.data, 0), k)
	for j := range p.chains {
		p.xor(p.current.Offset(p.width*j), k, p.d(j))
		p.xor(Mem{Base: p.src, Disp: p.width * j}, p.d(j), p.d(j))
	}
	for r := 1; r < p.rounds; r++ {
		k := p.roundKey(r)
		p.broadcast(key(p.data, r), k)
		for j := range p.chains {
			p.round(k, p.d(j))
		}
	}
	k = p.roundKey(p.rounds)
	p.broadcast(key(p.data, p.rounds), k)
	for j := range p.chains {
		p.last(k, p.d(j))
	}
	for j := range p.chains {
		t := p.temp(j % 2)
		p.load(p.current.Offset(p.width*j), t)
		p.xor(t, p.d(j), p.d(j))
		p.store(p.d(j), Mem{Base: p.dst, Disp: p.width * j})
		p.advance(t, p.temp(2+j%2))
		p.store(t, p.current.Offset(p.width*j))
	}
}

// epilogue leaves no key, tweak or data behind in a register or on the stack.
func (p *program) epilogue() {
	VPXOR(xmm[0], xmm[0], xmm[0])
	zero := VecPhysical(ymm[0])
	area := 3 * 16 * p.blocks()
	for offset := 0; offset < area; offset += 32 {
		VMOVDQU(zero, Mem{Base: p.scratchBase, Disp: offset})
	}
	if p.wide {
		for i := 16; i < 32; i++ {
			VPXORQ(zmm[i], zmm[i], zmm[i])
		}
	}
	VZEROALL()
	RET()
}

// roofline issues nothing but AES rounds on eight independent vectors: the bound that a kernel is measured against.
func (k kernel) roofline() {
	name := "roofline" + k.name
	TEXT(name, NOSPLIT, "func(passes int)")
	Doc(name + " issues 64 independent AES rounds of the kernel's width in each pass.")
	Load(Param("passes"), RAX)
	for i := range 9 {
		VPXOR(xmm[i], xmm[i], xmm[i])
	}
	align()
	Label(name + "_loop")
	for range 8 {
		for j := range 8 {
			VAESENC(k.vector(8), k.vector(j), k.vector(j))
		}
	}
	DECQ(RAX)
	JNZ(LabelRef(name + "_loop"))
	VZEROALL()
	RET()
}

// subWord is FIPS 197's SubWord in constant time: with the word in all four columns ShiftRows changes nothing.
func subWord() {
	TEXT("subWordAESNI", NOSPLIT, "func(word uint32) uint32")
	Doc("subWordAESNI is SubWord of FIPS 197, section 5.2, in constant time.")
	Load(Param("word"), EAX)
	VMOVD(EAX, X0)
	VPSHUFD(U8(0), X0, X0)
	VPXOR(X1, X1, X1)
	VAESENCLAST(X1, X0, X0)
	VMOVD(X0, EAX)
	VPXOR(X0, X0, X0)
	Store(EAX, ReturnIndex(0))
	RET()
}

func inverseMixColumns() {
	TEXT("inverseMixColumnsAESNI", NOSPLIT, "func(dst, src *byte)")
	Doc("inverseMixColumnsAESNI turns a round key into one of the equivalent inverse cipher (FIPS 197, section 5.3.5).")
	Pragma("noescape")
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	VMOVDQU(Mem{Base: RSI}, X0)
	VAESIMC(X0, X0)
	VMOVDQU(X0, Mem{Base: RDI})
	VPXOR(X0, X0, X0)
	RET()
}

func align() { Instruction(&ir.Instruction{Opcode: "PCALIGN", Operands: []Op{Imm(64)}}) }

func log2(n int) int {
	bits := 0
	for n > 1 {
		n >>= 1
		bits++
	}
	return bits
}

var (
	xmm = []VecPhysical{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}
	ymm = []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}
	zmm = []VecPhysical{Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31}
)

func index(v VecPhysical) int { return int(v.PhysicalIndex()) }
