package recovery

// The field GF(2^8) modulo x^8+x^4+x^3+x^2+1 (0x11d), the one of libgfshare, so that its gfcombine puts our shares together
// too. No branch and no index depends on a value.
const reduce = 0x1d

func mul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)
		a = a<<1 ^ reduce&-(a>>7)
		b >>= 1
	}
	return p
}

// inv is a^254, the inverse of a; 0 for 0.
func inv(a byte) byte {
	r := a
	for range 6 {
		r = mul(mul(r, r), a)
	}
	return mul(r, r)
}
