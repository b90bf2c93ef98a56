//go:build !purego

package aeskey

// subWord is SubWord of FIPS 197, section 5.2, in constant time.
func subWord(word uint32) uint32

// inverseMixColumns turns a round key into one of the equivalent inverse cipher (FIPS 197, section 5.3.5).
//
//go:noescape
func inverseMixColumns(dst *byte, src *byte)
