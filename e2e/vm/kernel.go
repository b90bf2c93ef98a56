// Package vm boots Debian's own kernel in an emulated machine and runs test programs in it: those that need what the
// machine at hand may lack, such as kernel NBD and dm-crypt. It needs neither KVM nor privileges; it is slow.
package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is wrapped by errors that say why there can be no virtual machine here. Tests skip on it.
var ErrUnavailable = errors.New("no virtual machine here")

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	Image   string // vmlinuz
	Modules string // lib/modules/VERSION
}

// metaPackage is Debian's newest kernel for virtual machines; its modules are not compressed in Debian 12.
const metaPackage = "linux-image-cloud-amd64"

// FindKernel returns the kernel in the cache, below os.UserCacheDir()/keyward-vm, and downloads it with apt-get on first
// use. Nothing is installed.
func FindKernel() (Kernel, error) {
	if runtime.GOARCH != "amd64" || runtime.GOOS != "linux" {
		return Kernel{}, unavailable("the guest is made for linux/amd64, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return Kernel{}, unavailable("find a cache folder: %w", err)
	}
	dir := filepath.Join(cache, "keyward-vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Kernel{}, unavailable("make a cache folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return Kernel{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // test programs run at the same time
		return Kernel{}, err
	}
	unpacked := filepath.Join(dir, "kernel")
	if k, err := kernelIn(unpacked); err == nil {
		return k, nil
	}
	if err := download(dir, unpacked); err != nil {
		return Kernel{}, err
	}
	return kernelIn(unpacked)
}

func kernelIn(dir string) (Kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	modules, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if len(images) != 1 || len(modules) != 1 {
		return Kernel{}, fmt.Errorf("%s holds %d kernels and %d module trees, want one of each; remove it", dir, len(images), len(modules))
	}
	return Kernel{Image: images[0], Modules: modules[0]}, nil
}

// download fetches the package into a temporary folder beside dest and renames, so that dest is whole or absent.
func download(dir, dest string) error {
	out, err := exec.Command("apt-cache", "depends", metaPackage).Output()
	if err != nil {
		return unavailable("ask apt for %s: %w", metaPackage, err)
	}
	name := ""
	for line := range strings.Lines(string(out)) {
		if dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok && name == "" {
			name = "linux-image-" + dep
		}
	}
	if name == "" {
		return unavailable("apt knows no %s; run apt-get update", metaPackage)
	}
	tmp, err := os.MkdirTemp(dir, "download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	get := exec.Command("apt-get", "download", name)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		return unavailable("download %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return unavailable("apt-get download left %d packages", len(debs))
	}
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], filepath.Join(tmp, "root")).CombinedOutput(); err != nil {
		return unavailable("unpack %s: %w: %s", debs[0], err, bytes.TrimSpace(out))
	}
	if err := os.RemoveAll(dest); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "root"), dest)
}

// ModuleOrder returns the module files for the named modules with everything that they depend on, dependencies first. The
// package has no modules.dep (it is made on installation), so the modules' own "depends=" entries are followed. A module
// that does not exist is taken to be built in.
func (k Kernel) ModuleOrder(names ...string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.Modules, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			files[moduleName(filepath.Base(path))] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the kernel's modules: %w", err)
	}
	var order []string
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] || files[name] == "" {
			return nil
		}
		seen[name] = true
		data, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		if _, rest, ok := bytes.Cut(data, []byte("\x00depends=")); ok {
			deps, _, _ := bytes.Cut(rest, []byte{0})
			for dep := range strings.SplitSeq(string(deps), ",") {
				if err := visit(dep); err != nil {
					return err
				}
			}
		}
		order = append(order, files[name])
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func moduleName(s string) string { return strings.ReplaceAll(strings.TrimSuffix(s, ".ko"), "-", "_") }
