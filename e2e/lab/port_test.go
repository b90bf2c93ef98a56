package lab

import (
	"net"
	"strconv"
	"testing"
)

func TestFreeBelow_anyRangeOfTheKernel(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]struct {
		first int
		below bool
	}{"the usual range": {32768, true}, "one that begins just above": {leastPort + fewPorts, true}, "a wide one": {1024, false}} {
		met := map[string]bool{}
		for range 50 {
			address, err := freeBelow(one.first, "127.0.0.1")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, text, err := net.SplitHostPort(address)
			port, err2 := strconv.Atoi(text)
			if err != nil || err2 != nil || port == 0 || one.below && (port < leastPort || port >= one.first) {
				t.Errorf("%s: %s", name, address)
			}
			if one.below && met[address] {
				t.Errorf("%s: %s twice", name, address)
			}
			met[address] = true
		}
	}
}
