package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
)

// ErrNoNamespaces is wrapped when this machine cannot give a process a network of its own.
var ErrNoNamespaces = errors.New("network namespaces cannot be made here (needs root and iproute2)")

// Wire is a network namespace that one cable joins to this machine: what runs in it reaches Host and nothing else.
type Wire struct {
	// Host is this machine's address on the cable, Guest the namespace's.
	Host, Guest string
	name, end   string
}

var wires atomic.Int32

// NewWire makes a namespace and its cable; Close takes both away.
func NewWire() (*Wire, error) {
	n := wires.Add(1)
	net := fmt.Sprintf("10.%d.%d", 200+os.Getpid()%50, (os.Getpid()/50*7+int(n))%250)
	w := &Wire{Host: net + ".1", Guest: net + ".2", name: fmt.Sprintf("kwnet-%d-%d", os.Getpid(), n), end: fmt.Sprintf("kw%dn%d", os.Getpid()%100000, n)}
	if err := ip("netns add " + w.name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNamespaces, err)
	}
	for _, command := range []string{
		"link add " + w.end + " type veth peer name " + w.end + "g netns " + w.name,
		"addr add " + w.Host + "/30 dev " + w.end,
		"link set " + w.end + " up",
		"-n " + w.name + " addr add " + w.Guest + "/30 dev " + w.end + "g",
		"-n " + w.name + " link set lo up",
		"-n " + w.name + " link set " + w.end + "g up",
	} {
		if err := ip(command); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoNamespaces, err), w.Close())
		}
	}
	return w, nil
}

// Inside makes a process run with the namespace's network; its file systems stay this machine's.
func (w *Wire) Inside(p *Process) {
	p.Args = append([]string{"nsenter", "--net=/run/netns/" + w.name}, p.Args...)
}

// Cut and Mend pull the cable out and put it back. Nobody is told: connections just hear nothing more.
func (w *Wire) Cut() error { return ip("-n " + w.name + " link set " + w.end + "g down") }

// Mend puts the cable back.
func (w *Wire) Mend() error { return ip("-n " + w.name + " link set " + w.end + "g up") }

// Close takes cable and namespace away. What runs inside must have ended.
func (w *Wire) Close() error {
	var errs []error
	if _, err := os.Stat("/sys/class/net/" + w.end); err == nil {
		errs = append(errs, ip("link del "+w.end))
	}
	return errors.Join(append(errs, ip("netns del "+w.name))...)
}

func ip(command string) error {
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}
