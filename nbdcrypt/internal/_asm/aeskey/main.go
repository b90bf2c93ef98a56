// Command aeskey generates the two AES steps that expanding a key needs, aeskey_amd64.s.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	subWord()
	inverseMixColumns()
	Generate()
}

// subWord is FIPS 197's SubWord in constant time: with the word in all four columns ShiftRows changes nothing.
func subWord() {
	TEXT("subWord", NOSPLIT, "func(word uint32) uint32")
	Doc("subWord is SubWord of FIPS 197, section 5.2, in constant time.")
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
	TEXT("inverseMixColumns", NOSPLIT, "func(dst, src *byte)")
	Doc("inverseMixColumns turns a round key into one of the equivalent inverse cipher (FIPS 197, section 5.3.5).")
	Pragma("noescape")
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	VMOVDQU(Mem{Base: RSI}, X0)
	VAESIMC(X0, X0)
	VMOVDQU(X0, Mem{Base: RDI})
	VPXOR(X0, X0, X0)
	RET()
}
