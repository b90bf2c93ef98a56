package lab

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// leastPort is below what services of the machine commonly use no longer.
const leastPort = 10240

// given are the ports that were given away in this process.
var given sync.Map

// FreeAddress is an address of a host (127.0.0.1 if it is empty) and a port that nobody listens on. It lies below those that
// the kernel gives to whoever asks for any, so no other program is given it meanwhile, and FreeAddress gives it once.
func FreeAddress(host string) (string, error) {
	first := 32768
	if raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(raw), &first)
	}
	var last error
	for range 1000 {
		port := leastPort + rand.IntN(max(first-leastPort, 1))
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		address := net.JoinHostPort(cmp.Or(host, "127.0.0.1"), fmt.Sprint(port))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
		last = err
	}
	return "", errors.Join(errors.New("no port is free"), last)
}
