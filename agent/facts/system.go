package facts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// mostText is the longest text that a fact is read from, bytes.
const mostText = 64 << 10

func guestOS(context.Context, Sources) ([]string, error) { return []string{runtime.GOOS}, nil }

// wide are the machine words of 64-bit kernels; those that end in 64 are, too.
var wide = map[string]bool{"s390x": true, "ppc64le": true, "mips64el": true, "alpha": true, "aarch64_be": true, "armv8l": true}

// architecture is the word size of the kernel, whatever the agent was built for. A 64-bit ARM kernel tells 32-bit programs
// that it is armv8l.
func architecture(_ context.Context, s Sources) ([]string, error) {
	machine := s.Machine
	if machine == "" {
		var err error
		if machine, err = unameMachine(); err != nil {
			return nil, err
		}
	}
	if wide[machine] || strings.HasSuffix(machine, "64") {
		return []string{"64"}, nil
	}
	return []string{"32"}, nil
}

func hostName(_ context.Context, s Sources) ([]string, error) {
	return line(s.path("proc/sys/kernel/hostname"))
}

func kernelVersion(_ context.Context, s Sources) ([]string, error) {
	return line(s.path("proc/sys/kernel/osrelease"))
}

// hardwareUUID names the machine to programs outside it. Machines of some kinds have none.
func hardwareUUID(_ context.Context, s Sources) ([]string, error) {
	return line(s.path("sys/class/dmi/id/product_uuid"))
}

func osVersion(_ context.Context, s Sources) ([]string, error) { return osRelease(s, "VERSION_ID") }
func osName(_ context.Context, s Sources) ([]string, error)    { return osRelease(s, "PRETTY_NAME") }

// osRelease reads one variable of os-release(5). Rolling distributions have no VERSION_ID.
func osRelease(s Sources, key string) ([]string, error) {
	file := "/etc/os-release"
	text, err := read(s.path(file))
	if errors.Is(err, os.ErrNotExist) {
		file = "/usr/lib/os-release"
		text, err = read(s.path(file))
	}
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(l), "=")
		if ok && name == key {
			if v := unquote(value); v != "" {
				return []string{v}, nil
			}
		}
	}
	return nil, fmt.Errorf("%s does not name %s", file, key)
}

// unquote undoes the shell quoting that os-release(5) allows.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		quote := s[0]
		s = s[1 : len(s)-1]
		if quote == '\'' {
			return s
		}
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// line is a file's only line.
func line(path string) ([]string, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return scalar(strings.TrimSpace(text), fmt.Errorf("%s is empty", path))
}

func read(path string) (string, error) { return readMost(path, mostText) }

// readMost refuses a file that is longer than most bytes.
func readMost(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	if int64(len(b)) > most {
		return "", fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return string(b), nil
}
