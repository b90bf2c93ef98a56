package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"keyward/asm/simd"
)

// line is a cache line: what the wide kernel takes of one sector at a time.
const line = 64

// encrypt writes encryption: groups of sectors, as many at a time as are left.
func (p *program) encrypt() {
	lines := 0
	if p.Wide() {
		lines = line * p.blocks()
	}
	p.begin("encrypt", lines)
	label := func(name string) string { return p.name + "_" + name }
	p.loadKeys()
	Label(label("batch"))
	TESTQ(p.left, p.left)
	JZ(LabelRef(label("done")))
	p.encryptNumbers()
	// R11 walks over the batch's IVs.
	LEAQ(p.ivs, R11)
	if p.Wide() {
		// Whole cache lines of a whole batch, else the way of the narrow kernels.
		CMPQ(p.left, U8(p.blocks()))
		JB(LabelRef(label("group8")))
		TESTQ(U32(line-1), p.size)
		JNZ(LabelRef(label("group8")))
		p.wideGroup(label("wide"))
		JMP(LabelRef(label("batch")))
	}
	for group := 8; group > 0; group /= 2 {
		// After the last sector of a batch R11 stands at its end and the next groups are skipped.
		next := label(fmt.Sprintf("group%d", group/2))
		if group == 1 {
			next = label("batch")
		}
		Label(label(fmt.Sprintf("group%d", group)))
		LEAQ(p.ivs.Offset(16*p.blocks()), R12)
		CMPQ(R11, R12)
		JE(LabelRef(label("batch")))
		CMPQ(p.left, U8(group))
		JB(LabelRef(next))
		p.group(group, label(fmt.Sprintf("group%d_block", group)))
		if group == 8 && p.blocks() > 8 {
			JMP(LabelRef(label("group8")))
		}
	}
	JMP(LabelRef(label("batch")))
	Label(label("done"))
	p.end()
}

// group encrypts so many sectors side by side, one block of each at a time. Its registers are the low XMMs, whatever
// the width of the kernel.
func (p *program) group(sectors int, loop string) {
	state := func(j int) VecPhysical { return simd.Xs[j] }
	for j := range sectors {
		VMOVDQU(Mem{Base: R11, Disp: 16 * j}, state(j))
	}
	ADDQ(U8(16*sectors), R11)
	MOVQ(p.size, R13)
	Label(loop)
	first := simd.Xs[8]
	VMOVDQU(simd.Key(p.data, 0), first)
	MOVQ(p.src, R12)
	for j := range sectors {
		// The plaintext meets the key first: it does not wait for the block before.
		plain := simd.Xs[10+j%4]
		VPXOR(Mem{Base: R12}, first, plain)
		VPXOR(plain, state(j), state(j))
		if j < sectors-1 {
			ADDQ(p.size, R12)
		}
	}
	for r := 1; r <= p.rounds; r++ {
		k := simd.Xs[8+r%2]
		VMOVDQU(simd.Key(p.data, r), k)
		for j := range sectors {
			if r == p.rounds {
				VAESENCLAST(k, state(j), state(j))
			} else {
				VAESENC(k, state(j), state(j))
			}
		}
	}
	MOVQ(p.dst, R12)
	for j := range sectors {
		VMOVDQU(state(j), Mem{Base: R12})
		if j < sectors-1 {
			ADDQ(p.size, R12)
		}
	}
	ADDQ(U8(16), p.src)
	ADDQ(U8(16), p.dst)
	SUBQ(U8(16), R13)
	JNZ(LabelRef(loop))
	// src and dst stand behind the first sector of the group.
	for range sectors - 1 {
		ADDQ(p.size, p.src)
		ADDQ(p.size, p.dst)
	}
	SUBQ(U8(sectors), p.left)
}

// wideGroup encrypts a whole batch of sectors, a cache line of each at a time: lines are read, turned so that a vector
// holds one block of each of 4 sectors, encrypted in place block by block, turned back and written.
func (p *program) wideGroup(loop string) {
	groups := p.chains
	state := func(g int) VecPhysical { return p.Vector(g) }
	// Turned block k of the sectors of group g.
	turned := func(k, g int) Mem { return p.lines.Offset(line * (groups*k + g)) }
	for g := range groups {
		p.Load(p.ivs.Offset(line*g), state(g))
	}
	MOVQ(p.size, R13)
	simd.Align()
	Label(loop)
	MOVQ(p.src, R12)
	for g := range groups {
		rows := p.rows(4 + 4*(g%2))
		for i := range rows {
			p.Load(Mem{Base: R12}, rows[i])
			ADDQ(p.size, R12)
		}
		for k, block := range p.turn(rows) {
			p.Store(block, turned(k, g))
		}
	}
	for k := range line / 16 {
		for g := range groups {
			// state ^= plaintext ^ first key
			VPTERNLOGQ(U8(0x96), turned(k, g), p.roundKey(0), state(g))
		}
		for r := 1; r <= p.rounds; r++ {
			for g := range groups {
				if r == p.rounds {
					VAESENCLAST(p.roundKey(r), state(g), state(g))
				} else {
					VAESENC(p.roundKey(r), state(g), state(g))
				}
			}
		}
		for g := range groups {
			p.Store(state(g), turned(k, g))
		}
	}
	MOVQ(p.dst, R12)
	for g := range groups {
		rows := p.rows(4 + 4*(g%2))
		for k := range rows {
			p.Load(turned(k, g), rows[k])
		}
		for _, row := range p.turn(rows) {
			p.Store(row, Mem{Base: R12})
			ADDQ(p.size, R12)
		}
	}
	ADDQ(U8(line), p.src)
	ADDQ(U8(line), p.dst)
	SUBQ(U8(line), R13)
	JNZ(LabelRef(loop))
	IMUL3Q(U8(p.blocks()-1), p.size, R12)
	ADDQ(R12, p.src)
	ADDQ(R12, p.dst)
	SUBQ(U8(p.blocks()), p.left)
}

// rows are four registers from number first on.
func (p *program) rows(first int) (rows [4]VecPhysical) {
	for i := range rows {
		rows[i] = p.Vector(first + i)
	}
	return rows
}

// turn transposes four rows of four blocks, through the registers 12 to 15; it uses up the rows.
func (p *program) turn(rows [4]VecPhysical) [4]VecPhysical {
	t := p.rows(12)
	// t0 = a0 a1 b0 b1, t1 = a2 a3 b2 b3, t2 = c0 c1 d0 d1, t3 = c2 c3 d2 d3
	VSHUFI32X4(U8(0x44), rows[1], rows[0], t[0])
	VSHUFI32X4(U8(0xee), rows[1], rows[0], t[1])
	VSHUFI32X4(U8(0x44), rows[3], rows[2], t[2])
	VSHUFI32X4(U8(0xee), rows[3], rows[2], t[3])
	VSHUFI32X4(U8(0x88), t[2], t[0], rows[0])
	VSHUFI32X4(U8(0xdd), t[2], t[0], rows[1])
	VSHUFI32X4(U8(0x88), t[3], t[1], rows[2])
	VSHUFI32X4(U8(0xdd), t[3], t[1], rows[3])
	return rows
}
