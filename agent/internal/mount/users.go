package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// User is something that keeps a file system busy.
type User struct {
	PID     int    // 0 when it is not a process
	Command string // the process's name, or what else it is: "mount", "loop device"
	How     string // "open file", "working directory", "root directory", "program", "mapped file", "mounted inside", "backing file"
	Path    string // one example
}

// String reads "process 412 (postgres: open file /mnt/secure/base/1)".
func (u User) String() string {
	if u.PID == 0 {
		return fmt.Sprintf("%s (%s %s)", u.Command, u.How, u.Path)
	}
	return fmt.Sprintf("process %d (%s: %s %s)", u.PID, u.Command, u.How, u.Path)
}

// signal never reaches this process, nor the first one.
func (u User) signal(s unix.Signal) {
	if u.PID > 1 && u.PID != os.Getpid() {
		_ = unix.Kill(u.PID, s)
	}
}

// Users returns who uses the file system mounted at target, one entry per process. It reads only procfs and sysfs and
// never a file of the file system, which may hang. Processes that end meanwhile are left out.
func Users(target string) ([]User, error) {
	target = filepath.Clean(target)
	info, err := At(target)
	if err != nil || info == nil {
		return nil, err
	}
	m := mountID{id: strconv.Itoa(info.ID), dev: fmt.Sprintf("%02x:%02x", info.Major, info.Minor), root: target}
	var out []User
	infos, err := Mounts()
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		if i.Parent == info.ID && i.ID != info.ID {
			out = append(out, User{Command: "mount", How: "mounted inside at", Path: i.Mountpoint})
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && m.contains(strings.TrimRight(string(b), "\n")) {
			out = append(out, User{Command: "loop device " + filepath.Base(filepath.Dir(filepath.Dir(l))), How: "backing file",
				Path: strings.TrimRight(string(b), "\n")})
		}
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if u, ok := m.user(pid); ok {
			out = append(out, u)
		}
	}
	return out, nil
}

// mountID is one mount as procfs names it in its different places.
type mountID struct {
	id   string // of fdinfo
	dev  string // of maps, hexadecimal
	root string
}

func (m mountID) contains(path string) bool {
	return path == m.root || strings.HasPrefix(path, strings.TrimSuffix(m.root, "/")+"/")
}

// user looks at one process: links first because they are cheap.
func (m mountID) user(pid int) (User, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	u := User{PID: pid}
	for _, l := range []struct{ name, how string }{{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}} {
		if path, err := os.Readlink(dir + "/" + l.name); err == nil && m.contains(path) && m.root != "/" {
			u.How, u.Path = l.how, path
			return u.named(dir), true
		}
	}
	if path, ok := m.openFile(dir); ok {
		u.How, u.Path = "open file", path
		return u.named(dir), true
	}
	if path, ok := m.mapped(dir); ok {
		u.How, u.Path = "mapped file", path
		return u.named(dir), true
	}
	return u, false
}

func (u User) named(dir string) User {
	if b, err := os.ReadFile(dir + "/comm"); err == nil {
		u.Command = strings.TrimSpace(string(b))
	}
	return u
}

// openFile finds a descriptor by the mount ID in fdinfo, which is right even for deleted files.
func (m mountID) openFile(dir string) (string, bool) {
	fds, err := os.ReadDir(dir + "/fdinfo")
	if err != nil {
		return "", false
	}
	for _, fd := range fds {
		b, err := os.ReadFile(dir + "/fdinfo/" + fd.Name())
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if id, ok := strings.CutPrefix(line, "mnt_id:"); ok && strings.TrimSpace(id) == m.id {
				path, err := os.Readlink(dir + "/fd/" + fd.Name())
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					path = "of unknown name"
				}
				return path, true
			}
		}
	}
	return "", false
}

// mapped finds a file mapping by device number (proc(5), maps: address, permissions, offset, device, inode, path).
func (m mountID) mapped(dir string) (string, bool) {
	b, err := os.ReadFile(dir + "/maps")
	if err != nil || !strings.Contains(string(b), " "+m.dev+" ") {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[3] == m.dev {
			return strings.Join(f[5:], " "), true
		}
	}
	return "", false
}
