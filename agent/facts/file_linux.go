package facts

import (
	"context"
	"io/fs"
	"os"
	"syscall"
	"time"

	"keyward/agent/internal/script"
)

// openFile does not wait for the writer of a pipe that somebody put in a file's place.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// changeOf is when the kernel last saw the inode change, which nobody sets back without setting the clock back.
func changeOf(info fs.FileInfo) (time.Time, uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix()), st.Ino
	}
	return info.ModTime(), 0
}

// output runs a program that belongs to root.
func output(ctx context.Context, timeout time.Duration, limit int, path string, args ...string) ([]byte, error) {
	return script.Output(ctx, timeout, limit, path, args...)
}
