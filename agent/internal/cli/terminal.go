package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSecret is the longest line of a secret, in bytes.
const maxSecret = 4096

// terminal reports whether standard input is one.
func (a *app) terminal() bool {
	f, ok := a.in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// typed reads one line of a secret. At a terminal it asks for it, and shows nothing of what is typed.
func (a *app) typed(prompt string, in *bufio.Reader) (string, error) {
	if f, ok := a.in.(*os.File); ok {
		fd := int(f.Fd())
		if saved, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
			silent := *saved
			silent.Lflag &^= unix.ECHO
			if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
				return "", fmt.Errorf("hide what is typed: %w", err)
			}
			defer func() {
				_ = unix.IoctlSetTermios(fd, unix.TCSETS, saved)
				fmt.Fprintln(a.err)
			}()
			fmt.Fprintf(a.err, "%s: ", prompt)
		}
	}
	line, err := in.ReadString('\n')
	if err != nil && (err != io.EOF || line == "") {
		return "", fmt.Errorf("read %s: %w", prompt, err)
	}
	if len(line) > maxSecret {
		return "", fmt.Errorf("read %s: it is longer than %d bytes", prompt, maxSecret)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
