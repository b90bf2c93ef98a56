package recovery

import (
	"crypto/rand"
	"errors"
	"fmt"
)

// MaxHolders is the most shares of one key.
const MaxHolders = 20

// point is one share of a secret: for each of its bytes the value of a polynomial at x.
type point struct {
	x byte
	y []byte
}

// split shares a secret among n so that any k of them make it again and fewer learn nothing (A. Shamir, How to share a
// secret, 1979): for each byte a random polynomial of degree k-1 whose value at 0 is the byte, at x = 1 to n.
func split(secret []byte, n, k int) ([]point, error) {
	if k < 2 || k > n || n > MaxHolders {
		return nil, fmt.Errorf("%d of %d shares: choose 2 to %d holders, and two or more of them to agree", k, n, MaxHolders)
	}
	points := make([]point, n)
	for i := range points {
		points[i] = point{byte(i + 1), make([]byte, len(secret))}
	}
	poly := make([]byte, k)
	defer clear(poly)
	for at, b := range secret {
		poly[0] = b
		rand.Read(poly[1:])
		for i := range points {
			points[i].y[at] = evaluate(poly, points[i].x)
		}
	}
	return points, nil
}

func evaluate(poly []byte, x byte) byte {
	var v byte
	for i := len(poly) - 1; i >= 0; i-- {
		v = mul(v, x) ^ poly[i]
	}
	return v
}

// combine makes the secret of k or more points: Lagrange's interpolation at 0. Points of another secret, or too few, give
// another secret: the caller proves what it gets.
func combine(points []point) ([]byte, error) {
	if len(points) < 2 {
		return nil, errors.New("one share alone opens nothing")
	}
	for i, p := range points {
		if p.x == 0 || len(p.y) != len(points[0].y) {
			return nil, errors.New("the shares are not of one secret")
		}
		for _, q := range points[:i] {
			if p.x == q.x {
				return nil, errors.New("the same share is given twice")
			}
		}
	}
	out := make([]byte, len(points[0].y))
	for i, p := range points {
		factor := byte(1)
		for j, q := range points {
			if i != j {
				factor = mul(factor, mul(q.x, inv(q.x^p.x)))
			}
		}
		for at, y := range p.y {
			out[at] ^= mul(factor, y)
		}
	}
	return out, nil
}
