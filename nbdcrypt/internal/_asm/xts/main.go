// Command xts generates the amd64 kernels of AES-XTS, xts_amd64.s and stubs_amd64.go; `go generate` in the folder of the
// kernels runs it. The generators are a module of their own so that their libraries never enter the product.
//
// One call of a kernel covers many sectors. The three kernels share one plan and differ in the width of a vector:
// AES-NI works on 8 vectors of one block, VAES-256 on 8 of two, VAES-512 on 4 of four.
//
// With VAES-512 the tweaks stay in registers and every pass multiplies them by x^16. The others keep a ring of the last 64
// tweaks in memory: the first 64 of a sector come by multiplying by x^8 or x^16, the later ones by x^64, which takes one
// instruction less on the ports that AES needs, because x^64 moves the halves of a block as they are.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"keyward/asm/simd"
)

// polynomial is x^7 + x^2 + x + 1, what x^128 is in the field of IEEE 1619.
const polynomial = 0x87

// ringBlocks is the number of tweaks in the ring of a narrow kernel; x^ringBlocks moves whole halves.
const ringBlocks = 64

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
	Generate()
}

// kernel is one instruction set's plan.
type kernel struct {
	name string
	// A wide kernel has 32 registers: keys and tweaks stay in them.
	simd.Width
	chains int // vectors in flight
}

var (
	aesNI   = kernel{name: "AESNI", Width: 16, chains: 8}
	vaes256 = kernel{name: "VAES256", Width: 32, chains: 8}
	vaes512 = kernel{name: "VAES512", Width: 64, chains: 4}
)

// blocks is the number of 16-byte blocks in one pass of the inner loop, and of sectors in one batch of tweaks.
func (k kernel) blocks() int { return k.Lanes() * k.chains }

func (k kernel) bytes() int { return int(k.Width) }

var powers, poly, swapped Mem

// constants lays out x^0 .. x^15, the polynomial, and what remains of it after swapping halves (see roll), one block each.
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
	swapped = GLOBL("xtsSwapped", RODATA|NOPTR)
	for i := range 2 {
		DATA(16*i, U64(polynomial^1))
		DATA(16*i+8, U64(0))
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
	sectorTweaks, offsets                           Mem // one block a sector of the batch, on the stack
	scratchBase                                     GPPhysical
	secret                                          int // bytes of the stack that are erased; offsets are no secret

	// A narrow kernel has its ring at scratchBase, and behind the offsets the address of its end. now and next are where the
	// tweaks of this pass and the following one lie; next takes the register of tweak.
	ringEnd   Mem
	now, next GPPhysical
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
	ring, size := 0, 16*p.blocks()
	if !p.Wide() {
		ring = 16 * ringBlocks
	}
	p.scratchBase = R10
	simd.Scratch(ring+2*size+16, R10)
	p.sectorTweaks = Mem{Base: R10, Disp: ring}
	p.offsets = p.sectorTweaks.Offset(size)
	p.secret = ring + size
	if !p.Wide() {
		p.ringEnd, p.now, p.next = p.offsets.Offset(size), R14, p.tweak
	}
}

// Registers of the wide kernel: Z0-3 data, Z4-7 tweaks, Z8-11 temporaries, Z12-15 last-round keys, Z16-30 data keys,
// Z31 polynomial. Of the others: 0-7 data, 8 and 9 round keys, 10-13 temporaries, 14 polynomial, 15 the last round key;
// tweaks on the stack.
func (p *program) d(j int) VecPhysical { return p.Vector(j) }
func (p *program) t(j int) VecPhysical { return p.Vector(4 + j) }
func (p *program) temp(j int) VecPhysical {
	if p.Wide() {
		return p.Vector(8 + j)
	}
	return p.Vector(10 + j)
}
func (p *program) poly() VecPhysical {
	if p.Wide() {
		return p.Vector(31)
	}
	return p.Vector(14)
}
func (p *program) roundKey(r int) VecPhysical {
	if p.Wide() {
		return p.Vector(16 + r)
	}
	return p.Vector(8 + r%2)
}

func (p *program) prologue() {
	if p.Wide() {
		for r := 0; r <= p.rounds; r++ {
			p.Broadcast(simd.Key(p.data, r), p.roundKey(r))
		}
	}
	p.Load(poly, p.poly())
	if !p.Wide() {
		p.Broadcast(simd.Key(p.data, p.rounds), p.Vector(15))
		LEAQ(Mem{Base: p.scratchBase, Disp: 16 * ringBlocks}, R11)
		MOVQ(R11, p.ringEnd)
	}
}

// counting prepares batches of sectors.
func (p *program) counting() {
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
	CMPQ(p.left, U8(1))
	JE(LabelRef(p.name + "_lone"))
	p.counting()
	Label(batch)
	TESTQ(p.left, p.left)
	JZ(LabelRef(done))
	if !p.Wide() {
		Load(Param("tweak"), p.tweak)
	}
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

	// A single sector does not wait for a batch of tweaks.
	Label(p.name + "_lone")
	p.encryptTweak()
	LEAQ(p.sectorTweaks, R11)
	JMP(LabelRef(sector))
	Label(done)
}

// encryptTweak encrypts one sector's number under the tweak key into the first of sectorTweaks.
func (p *program) encryptTweak() {
	t := simd.Xs[0]
	VMOVQ(p.number, t)
	VPXOR(simd.Key(p.tweak, 0), t, t)
	for r := 1; r < p.rounds; r++ {
		VAESENC(simd.Key(p.tweak, r), t, t)
	}
	VAESENCLAST(simd.Key(p.tweak, p.rounds), t, t)
	VMOVDQU(t, p.sectorTweaks)
}

// encryptTweaks encrypts the next sectors' numbers under the tweak key into sectorTweaks.
func (p *program) encryptTweaks() {
	base := p.temp(0)
	p.BroadcastNumber(p.number, base)
	for j := range p.chains {
		VPADDQ(p.offsets.Offset(p.bytes()*j), base, p.d(j))
	}
	for r := 0; r <= p.rounds; r++ {
		k := p.temp(1 + r%2)
		p.Broadcast(simd.Key(p.tweak, r), k)
		for j := range p.chains {
			switch r {
			case 0:
				p.Xor(k, p.d(j), p.d(j))
			case p.rounds:
				VAESENCLAST(k, p.d(j), p.d(j))
			default:
				VAESENC(k, p.d(j), p.d(j))
			}
		}
	}
	for j := range p.chains {
		p.Store(p.d(j), p.sectorTweaks.Offset(p.bytes()*j))
	}
	// number += blocks*step
	MOVQ(p.step, R13)
	SHLQ(U8(simd.Log2(p.blocks())), R13)
	ADDQ(R13, p.number)
}

// firstTweaks spreads the sector's tweak at R11 into the tweaks of its first blocks: block i gets T times x^i.
// With T = lo + hi*x^64 and c = x^i, i < 16: T*c = lo*c + (hi*c mod x^64)*x^64 + (hi*c div x^64)*polynomial.
func (p *program) firstTweaks() {
	base := p.temp(0)
	p.Broadcast(Mem{Base: R11}, base)
	for j := range p.chains {
		to := p.temp(1)
		if p.Wide() {
			to = p.t(j)
		}
		p.timesPower(base, powers.Offset(p.bytes()*j), to, p.temp(2), p.temp(3))
		if !p.Wide() {
			p.Store(to, Mem{Base: p.scratchBase, Disp: p.bytes() * j})
		}
	}
}

// timesPower sets dst to t times the powers at c; a and b are scratch.
func (p *program) timesPower(t VecPhysical, c Mem, dst, a, b VecPhysical) {
	p.Load(c, dst)
	VPCLMULQDQ(U8(0x01), dst, t, a)      // hi*c
	VPCLMULQDQ(U8(0x00), dst, t, dst)    // lo*c
	VPCLMULQDQ(U8(0x01), p.poly(), a, b) // (hi*c div x^64) * polynomial
	VPSLLDQ(U8(8), a, a)                 // (hi*c mod x^64) * x^64
	if p.Wide() {
		VPTERNLOGQ(U8(0x96), a, b, dst)
		return
	}
	p.Xor(a, dst, dst)
	p.Xor(b, dst, dst)
}

// advance multiplies tweak vector t by x^blocks in place: a byte shift, and what falls out times the polynomial.
func (p *program) advance(t, a VecPhysical) {
	bytes := p.blocks() / 8
	VPSRLDQ(U8(16-bytes), t, a)
	VPSLLDQ(U8(bytes), t, t)
	VPCLMULQDQ(U8(0x00), p.poly(), a, a)
	p.Xor(a, t, t)
}

// sector works through one sector: full passes, then single blocks.
func (p *program) sector() {
	tail, single, end := p.name+"_tail", p.name+"_single", p.name+"_end"
	bytes := 16 * p.blocks()
	MOVQ(p.size, R13)
	SHRQ(U8(simd.Log2(bytes)), R13)
	if p.Wide() {
		JZ(LabelRef(tail))
		p.loop("loop", func() { p.passWide() })
	} else {
		p.passesNarrow(tail)
	}
	Label(tail)
	MOVQ(p.size, R13)
	ANDQ(U32(bytes-16), R13)
	JZ(LabelRef(end))
	// The first block's tweak is the lowest of the current ones.
	t, d := simd.Xs[simd.Number(p.temp(0))], simd.Xs[0]
	if p.Wide() {
		VMOVDQA(simd.Xs[4], t)
	} else {
		VMOVDQU(Mem{Base: p.now}, t)
	}
	Label(single)
	VPXOR(Mem{Base: p.src}, t, d)
	VPXOR(simd.Key(p.data, 0), d, d)
	for r := 1; r < p.rounds; r++ {
		p.round(simd.Key(p.data, r), d)
	}
	p.last(simd.Key(p.data, p.rounds), d)
	VPXOR(t, d, d)
	VMOVDQU(d, Mem{Base: p.dst})
	p.double(t, simd.Xs[simd.Number(p.temp(1))], simd.Xs[simd.Number(p.temp(2))], simd.Xs[simd.Number(p.temp(3))])
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

// loop repeats body, which works on one vector per chain, until R13 passes are done or body jumps out.
func (p *program) loop(name string, body func()) {
	label := p.name + "_" + name
	simd.Align()
	Label(label)
	body()
	DECQ(R13)
	JNZ(LabelRef(label))
}

// stepOn moves to the next vectors of the data.
func (p *program) stepOn() {
	ADDQ(U32(16*p.blocks()), p.src)
	ADDQ(U32(16*p.blocks()), p.dst)
}

// passWide works on one vector per chain and moves the tweaks on.
func (p *program) passWide() {
	for j := range p.chains {
		VMOVDQU64(Mem{Base: p.src, Disp: p.bytes() * j}, p.d(j))
		VPTERNLOGQ(U8(0x96), p.t(j), p.roundKey(0), p.d(j))
	}
	final := func(j int) VecPhysical { return p.Vector(12 + j) }
	for r := 1; r < p.rounds; r++ {
		for j := range p.chains {
			p.round(p.roundKey(r), p.d(j))
		}
		// One tweak vector moves on in each of the first rounds, where the shuffle port is idle.
		if j := r - 1; j < p.chains {
			p.Xor(p.roundKey(p.rounds), p.t(j), final(j))
			p.advance(p.t(j), p.temp(j))
		}
	}
	for j := range p.chains {
		p.last(final(j), p.d(j))
	}
	for j := range p.chains {
		VMOVDQU64(p.d(j), Mem{Base: p.dst, Disp: p.bytes() * j})
	}
	p.stepOn()
}

// passesNarrow fills the ring during the first passes and rolls it during the others.
func (p *program) passesNarrow(tail string) {
	roll := p.name + "_roll"
	MOVQ(p.scratchBase, p.now)
	LEAQ(Mem{Base: p.scratchBase, Disp: 16 * p.blocks()}, p.next)
	TESTQ(R13, R13)
	JZ(LabelRef(tail))
	p.loop("fill", func() {
		CMPQ(p.next, p.ringEnd)
		JE(LabelRef(roll))
		p.passNarrow(p.fill)
		MOVQ(p.next, p.now)
		ADDQ(U32(16*p.blocks()), p.next)
	})
	JMP(LabelRef(tail))
	Label(roll)
	MOVQ(p.scratchBase, p.next)
	p.loop("rolling", func() {
		p.passNarrow(p.roll)
		MOVQ(p.next, p.now)
		ADDQ(U32(16*p.blocks()), p.next)
		CMPQ(p.next, p.ringEnd)
		CMOVQEQ(p.scratchBase, p.next)
	})
}

// fill sets next's vector j to now's times x^blocks.
func (p *program) fill(j int) {
	t := p.temp(j % 2)
	p.Load(Mem{Base: p.now, Disp: p.bytes() * j}, t)
	p.advance(t, p.temp(2+j%2))
	p.Store(t, Mem{Base: p.next, Disp: p.bytes() * j})
}

// roll multiplies next's vector j by x^64: with T = lo + hi*x^64 that is hi*polynomial + lo*x^64, which is T with its
// halves swapped, lo*x^64 + hi, plus hi times what the polynomial is without its 1.
func (p *program) roll(j int) {
	t, a := p.temp(j%2), p.temp(2+j%2)
	m := Mem{Base: p.next, Disp: p.bytes() * j}
	p.Load(m, t)
	VPSHUFD(U8(0x4e), t, a)
	VPCLMULQDQ(U8(0x01), swapped, t, t)
	p.Xor(a, t, t)
	p.Store(t, m)
}

// passNarrow works on one vector per chain; move makes the tweaks of the next pass.
func (p *program) passNarrow(move func(j int)) {
	k := p.roundKey(0)
	p.Broadcast(simd.Key(p.data, 0), k)
	for j := range p.chains {
		p.Xor(Mem{Base: p.now, Disp: p.bytes() * j}, k, p.d(j))
		p.Xor(Mem{Base: p.src, Disp: p.bytes() * j}, p.d(j), p.d(j))
	}
	for r := 1; r < p.rounds; r++ {
		k := p.roundKey(r)
		p.Broadcast(simd.Key(p.data, r), k)
		for j := range p.chains {
			p.round(k, p.d(j))
		}
		// One tweak vector moves on in each of the first rounds, so that the shuffles do not come all at once.
		if j := r - 1; j < p.chains {
			move(j)
		}
	}
	for j := range p.chains {
		p.last(p.Vector(15), p.d(j))
		p.Xor(Mem{Base: p.now, Disp: p.bytes() * j}, p.d(j), p.d(j))
		p.Store(p.d(j), Mem{Base: p.dst, Disp: p.bytes() * j})
	}
	p.stepOn()
}

// epilogue leaves no key, tweak or data behind in a register or on the stack.
func (p *program) epilogue() {
	p.Erase(p.scratchBase, p.secret)
	RET()
}

// roofline issues nothing but AES rounds on eight independent vectors: the bound that a kernel is measured against.
func (k kernel) roofline() {
	name := "roofline" + k.name
	TEXT(name, NOSPLIT, "func(passes int)")
	Doc(name + " issues 64 independent AES rounds of the kernel's width in each pass.")
	Load(Param("passes"), RAX)
	for i := range 9 {
		VPXOR(simd.Xs[i], simd.Xs[i], simd.Xs[i])
	}
	simd.Align()
	Label(name + "_loop")
	for range 8 {
		for j := range 8 {
			VAESENC(k.Vector(8), k.Vector(j), k.Vector(j))
		}
	}
	DECQ(RAX)
	JNZ(LabelRef(name + "_loop"))
	VZEROALL()
	RET()
}
