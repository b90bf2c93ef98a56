package mount

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firstLines and lastLines are how much of a tool's output an error carries: some tools say what is wrong and then how
// they are used, others say what they do and then what went wrong.
const (
	firstLines = 2
	lastLines  = 4
)

// toolError is the failure of a tool with the ends of what it said.
type toolError struct {
	tool  string
	code  int // exit code, -1 when it was ended by a signal
	lines []string
	err   error
}

func (e *toolError) Error() string {
	msg := fmt.Sprintf("%s failed: %v", e.tool, e.err)
	if len(e.lines) > 0 {
		msg += ": " + strings.Join(e.lines, " / ")
	}
	return msg
}

func (e *toolError) Unwrap() error { return e.err }

// findTool looks beyond PATH, because services often lack the sbin folders in theirs.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed; install e2fsprogs (ext3, ext4) or xfsprogs (xfs)", name)
}

// run executes a tool without a terminal, in the C locale, and feeds its lines to watch (may be nil).
func run(ctx context.Context, name string, args []string, watch *progress) error {
	path, err := findTool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// No MKE2FS_* or other settings of the environment may change what is made.
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	pr, pw := io.Pipe()
	cmd.Stdout, cmd.Stderr = pw, pw
	read := make(chan []string)
	go func() { read <- readLines(pr, watch) }()
	err = cmd.Run()
	pw.Close()
	lines := <-read
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	return &toolError{tool: name, code: code, lines: lines, err: err}
}

// readLines returns the first and last lines of r. A run of backspaces or a carriage return ends a line too: tools rewrite counters
// with them.
func readLines(r io.Reader, watch *progress) []string {
	var last []string
	prefix := "" // of a counter that is being rewritten
	sc := bufio.NewScanner(r)
	sc.Split(splitTerminal)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), " ")
		if i := strings.LastIndex(line, ": "); i >= 0 {
			prefix = line[:i+2]
		} else if watch != nil && strings.Contains(line, "/") {
			watch.line(prefix + line)
		}
		if watch != nil {
			watch.line(line)
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		if last = append(last, strings.TrimSpace(line)); len(last) > firstLines+lastLines {
			last = append(last[:firstLines], last[firstLines+1:]...)
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line longer than the scanner takes: the tool must not block on it
	return last
}

func splitTerminal(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\n\r\b"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
