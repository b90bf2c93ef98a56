package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive writes an initramfs: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/
// buffer-format.rst). Folders are made as they are needed.
type archive struct {
	w    *bufio.Writer
	n    int64
	ino  int
	made map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), made: map[string]bool{"/": true, ".": true}}
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
	modeChar = 0o020000
)

func (a *archive) write(b []byte) {
	if a.err == nil {
		var n int
		n, a.err = a.w.Write(b)
		a.n += int64(n)
	}
}

func (a *archive) pad() {
	for a.n%4 != 0 {
		a.write([]byte{0})
	}
}

// header is the fixed part and the name. size is that of the data which follows.
func (a *archive) header(name string, mode uint32, size int64, major, minor int) {
	name = strings.TrimPrefix(name, "/")
	a.ino++
	a.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
}

func (a *archive) parents(name string) {
	dir := path.Dir(name)
	if a.made[dir] {
		return
	}
	a.parents(dir)
	a.made[dir] = true
	a.header(dir, modeDir|0o755, 0, 0, 0)
}

func (a *archive) folder(name string) { a.parents(path.Join(name, "x")) }

func (a *archive) bytes(name string, perm uint32, data []byte) {
	a.parents(name)
	a.header(name, modeFile|perm, int64(len(data)), 0, 0)
	a.write(data)
	a.pad()
}

func (a *archive) file(name string, perm uint32, from string) {
	if a.err != nil || a.made[name] {
		return
	}
	a.made[name] = true
	data, err := os.ReadFile(from)
	if err != nil {
		a.err = err
		return
	}
	a.bytes(name, perm, data)
}

func (a *archive) link(name, target string) {
	a.parents(name)
	a.header(name, modeLink|0o777, int64(len(target)), 0, 0)
	a.write([]byte(target))
	a.pad()
}

func (a *archive) char(name string, major, minor int) {
	a.parents(name)
	a.header(name, modeChar|0o600, 0, major, minor)
}

// close ends the archive.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 0, 0)
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}
