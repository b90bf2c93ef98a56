package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is a test program for the guest.
type Program struct {
	Name string   `json:"name"`
	Path string   `json:"path"` // in the guest
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
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
	// Files are put into the guest by path.
	Files map[string][]byte
	// Scratch is the size in bytes of a disk on which the programs' temporary files lie; 0 puts them in memory.
	Scratch int64
	// Disk is a disk of the guest, as a file name of qemu's (nbd+unix:///?socket=PATH); empty for none. It honours flushes.
	Disk string
	// Memory in MiB; 0 means 1536.
	Memory int
}

// processor is all that TCG can emulate, but VAES: qemu 7.2 computes the upper half of a 256-bit round from the lower.
const processor = "max,vaes=off"

// tool paths that no dynamic section names but that the tools load at run time.
var loadedAtRunTime = []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1", "/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so",
	"/etc/mke2fs.conf", "/etc/ssl/openssl.cnf"}

// initramfs writes the guest's files to path.
func (m Machine) initramfs(path string) error {
	names := m.Modules
	if m.Scratch > 0 || m.Disk != "" {
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
	a.bytes("/etc/machine-id", 0o444, []byte("0123456789abcdef0123456789abcdef\n"))
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
	for name, data := range m.Files {
		a.bytes(name, 0o600, data)
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

// qemu is the command line of the machine whose files lie in dir. extra goes to its end.
func (m Machine) qemu(dir string, extra ...string) (path string, args []string, err error) {
	if path, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		return "", nil, unavailable("qemu-system-x86_64 is not installed")
	}
	memory := m.Memory
	if memory == 0 {
		memory = 1536
	}
	args = []string{"-accel", "tcg,thread=multi", "-cpu", processor, "-smp", "2", "-m", fmt.Sprint(memory), "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", m.Kernel.Image, "-initrd", filepath.Join(dir, "initramfs"),
		"-append", "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init random.trust_cpu=on"}
	if m.Scratch > 0 {
		file := filepath.Join(dir, "scratch")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return "", nil, err
		}
		if err := os.Truncate(file, m.Scratch); err != nil {
			return "", nil, fmt.Errorf("make the scratch disk: %w", err)
		}
		// Nothing on it outlives the machine, so nobody has to wait for the host's disk.
		args = append(args, "-drive", "file="+file+",format=raw,if=virtio,cache=unsafe,discard=unmap")
	}
	if m.Disk != "" {
		args = append(args, "-drive", "file="+m.Disk+",format=raw,if=none,id=disk,cache=none",
			"-device", "virtio-blk-pci,drive=disk,physical_block_size=4096")
	}
	return path, append(args, extra...), nil
}
