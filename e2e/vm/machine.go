package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Program is a test program for the guest.
type Program struct {
	Name string   `json:"name"`
	Path string   `json:"path"` // in the guest
	Args []string `json:"args"`
	// File is the program on the host: linked statically.
	File string `json:"-"`
}

// Machine is what the guest is made of.
type Machine struct {
	Kernel Kernel
	// Init is the compiled e2e/vm/guest.
	Init string
	// Modules to load, by name; those they need are loaded with them.
	Modules []string
	// Tools are programs of the host that the guest's programs call, copied with the libraries they need.
	Tools    []string
	Programs []Program
	// Scratch is the size in bytes of a disk on which the programs' temporary files lie; 0 puts them in memory.
	Scratch int64
}

// processor is all that TCG can emulate. VAES is left out: qemu 7.2 gives wrong results for some of its uses.
const processor = "max,vaes=off"

// tool paths that no dynamic section names but that the tools load at run time.
var loadedAtRunTime = []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1", "/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so",
	"/etc/mke2fs.conf", "/etc/ssl/openssl.cnf"}

// initramfs writes the guest's files to path.
func (m Machine) initramfs(path string) error {
	names := m.Modules
	if m.Scratch > 0 {
		names = append([]string{"virtio_pci", "virtio_blk", "ext4", "crc32c_generic"}, names...)
	}
	modules, err := m.Kernel.ModuleOrder(names...)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a := newArchive(f)
	a.char("/dev/console", 5, 1) // the kernel opens it for the first process before devtmpfs is mounted
	a.file("/init", 0o755, m.Init)
	for _, d := range []string{"/proc", "/sys", "/tmp", "/run", "/mnt", "/etc", "/var/lib"} {
		a.folder(d)
	}
	a.link("/etc/mtab", "/proc/self/mounts")
	a.bytes("/etc/passwd", 0o644, []byte("root:x:0:0:root:/tmp:/bin/sh\n"))
	a.bytes("/etc/hostname", 0o644, []byte("guest\n"))
	var plan struct {
		Modules  []string  `json:"modules"`
		Programs []Program `json:"programs"`
		Scratch  string    `json:"scratch,omitempty"`
	}
	plan.Programs = m.Programs
	if m.Scratch > 0 {
		plan.Scratch = "/dev/vda"
	}
	for _, ko := range modules {
		in := "/modules/" + filepath.Base(ko)
		a.file(in, 0o644, ko)
		plan.Modules = append(plan.Modules, in)
	}
	for _, p := range m.Programs {
		a.file(p.Path, 0o755, p.File)
	}
	if err := m.addTools(a); err != nil {
		return err
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	a.bytes("/plan.json", 0o644, text)
	return a.close()
}

func (m Machine) addTools(a *archive) error {
	for _, name := range m.Tools {
		path, err := exec.LookPath(name)
		if err != nil {
			return unavailable("%s is not installed", name)
		}
		a.file("/usr/sbin/"+name, 0o755, path)
		out, err := exec.Command("ldd", path).CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) {
			return fmt.Errorf("ldd %s: %w: %s", path, err, out)
		}
		for line := range strings.Lines(string(out)) {
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "/") {
					a.file(word, 0o755, word)
				}
			}
		}
	}
	for _, path := range loadedAtRunTime {
		if _, err := os.Stat(path); err == nil {
			a.file(path, 0o755, path)
		}
	}
	return nil
}

// Result of a run in the guest.
type Result struct {
	// Passed says for each program whether it ended well.
	Passed map[string]bool
	// Leftovers are block devices and mounts that a program did not clean up.
	Leftovers []string
	// Console is all that was printed.
	Console string
	// Boot is the time until the first process ran, Total that until the machine was off.
	Boot, Total time.Duration
}

// mark starts the lines of the guest's first process.
const mark = "@keyward "

// Run boots the machine and waits until it has switched itself off. ctx bounds it. line receives the console as it comes
// and may be nil.
func (m Machine) Run(ctx context.Context, line func(string)) (Result, error) {
	r := Result{Passed: map[string]bool{}}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return r, unavailable("qemu-system-x86_64 is not installed")
	}
	dir, err := os.MkdirTemp("", "keyward-vm-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	initramfs := filepath.Join(dir, "initramfs")
	if err := m.initramfs(initramfs); err != nil {
		return r, fmt.Errorf("make the guest's files: %w", err)
	}
	var disks []string
	if m.Scratch > 0 {
		file := filepath.Join(dir, "scratch")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return r, err
		}
		if err := os.Truncate(file, m.Scratch); err != nil {
			return r, fmt.Errorf("make the scratch disk: %w", err)
		}
		// Nothing on it outlives the machine, so nobody has to wait for the host's disk.
		disks = []string{"-drive", "file=" + file + ",format=raw,if=virtio,cache=unsafe,discard=unmap"}
	}
	cmd := exec.CommandContext(ctx, qemu, append(disks, "-accel", "tcg,thread=multi", "-cpu", processor, "-smp", "2", "-m", "1536", "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", m.Kernel.Image, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init random.trust_cpu=on")...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return r, unavailable("start qemu: %w", err)
	}
	ended := r.read(out, start, line)
	err = cmd.Wait()
	r.Total = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("the guest did not end in time: %w", ctx.Err())
	case err != nil:
		return r, fmt.Errorf("qemu: %w: %s", err, bytes.TrimSpace(errOut.Bytes()))
	case !ended:
		return r, fmt.Errorf("the guest went down before it was done; the end of its console: %s", tail(r.Console, 2000))
	}
	return r, nil
}

// read takes the console apart. It reports whether the guest said that it is done.
func (r *Result) read(out io.Reader, start time.Time, line func(string)) (ended bool) {
	var console strings.Builder
	sc := bufio.NewScanner(out)
	sc.Buffer(make([]byte, 64<<10), 4<<20)
	for sc.Scan() {
		text := strings.TrimRight(sc.Text(), "\r")
		if r.Boot == 0 && text != "" {
			r.Boot = time.Since(start)
		}
		console.WriteString(text + "\n")
		if line != nil {
			line(text)
		}
		// The kernel may print in the middle of a line.
		_, said, ok := strings.Cut(text, mark)
		if !ok {
			continue
		}
		switch f := strings.Fields(said); {
		case len(f) >= 3 && f[0] == "program":
			r.Passed[f[1]] = f[2] == "passed"
		case len(f) >= 3 && f[0] == "leftover":
			r.Leftovers = append(r.Leftovers, strings.Join(f[1:], " "))
		case len(f) >= 1 && f[0] == "end":
			ended = true
		}
	}
	_, _ = io.Copy(io.Discard, out)
	r.Console = console.String()
	return ended
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "..." + s[len(s)-n:]
	}
	return s
}
