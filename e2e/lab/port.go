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

// Ports from leastPort on are rarely those of the machine's services. Where fewer than fewPorts are left below those that the
// kernel gives away, because somebody has widened its range, it is asked for one.
const (
	leastPort = 10240
	fewPorts  = 1000
)

// given are the ports that were given away in this process.
var given sync.Map

// FreeAddress is an address of a host (127.0.0.1 if it is empty) and a port that nobody listens on. It lies below those that
// the kernel gives to whoever asks for any, where there are such, so no other program is given it meanwhile, and FreeAddress
// gives it once.
func FreeAddress(host string) (string, error) {
	first := 32768
	if raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(raw), &first)
	}
	return freeBelow(first, cmp.Or(host, "127.0.0.1"))
}

// freeBelow chooses a port below the first that the kernel gives away.
func freeBelow(first int, host string) (string, error) {
	var last error
	for range 1000 {
		port := 0
		if first-leastPort >= fewPorts {
			port = leastPort + rand.IntN(first-leastPort)
			if _, taken := given.LoadOrStore(port, true); taken {
				continue
			}
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err == nil {
			return listener.Addr().String(), listener.Close()
		}
		last = err
	}
	return "", fmt.Errorf("no port of %s is free: %w", host, cmp.Or(last, errAllGiven))
}

var errAllGiven = errors.New("this process has given all away")
