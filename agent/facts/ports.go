package facts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Socket states in procfs net/* (include/net/tcp_states.h). A UDP socket that is bound and not connected shows "close".
const (
	stateListen = "0A"
	stateClose  = "07"
)

func tcpPorts(ctx context.Context, s Sources) ([]string, error) {
	return ports(ctx, stateListen, s.path("proc/net/tcp"), s.path("proc/net/tcp6"))
}

func udpPorts(ctx context.Context, s Sources) ([]string, error) {
	return ports(ctx, stateClose, s.path("proc/net/udp"), s.path("proc/net/udp6"))
}

// ports returns the local ports in a state, in numerical order, of the IPv4 table and, where the kernel has IPv6, that.
// A table that cannot be read to its end gives no fact: a port that was missed must not pass a rule.
func ports(ctx context.Context, state, v4, v6 string) ([]string, error) {
	found := map[uint16]bool{}
	for _, path := range []string{v4, v6} {
		f, err := os.Open(path)
		if path == v6 && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = scanPorts(ctx, f, state, found)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	numbers := make([]uint16, 0, len(found))
	for p := range found {
		numbers = append(numbers, p)
	}
	slices.Sort(numbers)
	out := make([]string, len(numbers))
	for i, p := range numbers {
		out[i] = strconv.Itoa(int(p))
	}
	return out, nil
}

// scanPorts reads lines "sl local_address rem_address st ..." after a headline; addresses are hexadecimal with the port
// after the colon (proc(5)).
func scanPorts(ctx context.Context, r io.Reader, state string, found map[uint16]bool) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 64<<10)
	for n := 0; sc.Scan(); n++ {
		if n == 0 {
			continue
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		f := strings.Fields(sc.Text())
		if len(f) < 4 {
			return fmt.Errorf("line %d has %d fields, at least 4 are expected", n+1, len(f))
		}
		_, port, ok := strings.Cut(f[1], ":")
		if !ok {
			return fmt.Errorf("line %d has no port in %q", n+1, f[1])
		}
		p, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return fmt.Errorf("line %d: port %q: %w", n+1, port, err)
		}
		if f[3] == state && p != 0 {
			found[uint16(p)] = true
		}
	}
	return sc.Err()
}
