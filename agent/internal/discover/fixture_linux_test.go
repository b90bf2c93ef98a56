package discover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a fixture of sysfs, procfs and devfs. Device nodes are sparse files.
type machine struct {
	t      *testing.T
	root   string
	mounts []string
	swaps  []string
	minor  int
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir()}
	m.write("sys/devices/.keep", "")
	m.write("sys/block/.keep", "")
	if err := os.Remove(filepath.Join(m.root, "sys/block/.keep")); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) write(path, content string) {
	m.t.Helper()
	full := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(path, target string) {
	m.t.Helper()
	full := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, full); err != nil {
		m.t.Fatal(err)
	}
}

// node makes the files that disks and partitions have alike. where is below sys/devices.
func (m *machine) node(where, name string, sizeMiB int64) string {
	m.minor++
	dir := "sys/devices/" + where + "/" + name
	m.write(dir+"/dev", fmt.Sprintf("8:%d\n", m.minor))
	m.write(dir+"/size", fmt.Sprintf("%d\n", sizeMiB*2048))
	m.write(dir+"/ro", "0\n")
	node := filepath.Join(m.root, "dev", name)
	m.write("dev/"+name, "")
	if err := os.Truncate(node, sizeMiB<<20); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// disk adds a whole disk with attributes ("device/model=X").
func (m *machine) disk(name string, sizeMiB int64, attrs ...string) string {
	where := "pci0000:00/slot-" + name + "/block"
	if strings.HasPrefix(name, "dm-") || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "md") {
		where = "virtual/block"
	}
	dir := m.node(where, name, sizeMiB)
	m.write(dir+"/queue/logical_block_size", "512\n")
	m.write(dir+"/queue/rotational", "1\n")
	m.write(dir+"/removable", "0\n")
	for _, a := range attrs {
		k, v, _ := strings.Cut(a, "=")
		m.write(dir+"/"+k, v+"\n")
	}
	m.link("sys/block/"+name, "../../"+dir)
	return dir
}

func (m *machine) part(disk, name string, number int, sizeMiB int64) {
	dir := m.node("pci0000:00/slot-"+disk+"/block/"+disk, name, sizeMiB)
	m.write(dir+"/partition", fmt.Sprintf("%d\n", number))
}

// stack puts upper on lower, as dm and md do.
func (m *machine) stack(upper string, lower ...string) {
	for _, l := range lower {
		m.write("sys/block/"+upper+"/slaves/"+l, "")
		matches, _ := filepath.Glob(filepath.Join(m.root, "sys/block/*", l))
		dir := filepath.Join(m.root, "sys/block", l)
		if len(matches) > 0 {
			dir = matches[0]
		}
		rel, _ := filepath.Rel(m.root, dir)
		m.write(rel+"/holders/"+upper, "")
	}
}

// mount adds a line of mountinfo. name is a device for its number, or "" for an anonymous one.
func (m *machine) mount(point, fsType, source, name, options string) {
	dev := "0:99"
	if name != "" {
		for _, g := range []string{"sys/block/" + name + "/dev", "sys/block/*/" + name + "/dev"} {
			found, _ := filepath.Glob(filepath.Join(m.root, g))
			for _, f := range found {
				b, err := os.ReadFile(f)
				if err != nil {
					m.t.Fatal(err)
				}
				dev = strings.TrimSpace(string(b))
			}
		}
	}
	m.mounts = append(m.mounts, fmt.Sprintf("%d 1 %s / %s rw,relatime - %s %s rw,%s\n", 20+len(m.mounts), dev, point, fsType, source, options))
}

// devices discovers the fixture.
func (m *machine) devices() map[string]Device {
	m.t.Helper()
	m.write("proc/self/mountinfo", strings.Join(m.mounts, ""))
	m.write("proc/1/mountinfo", strings.Join(m.mounts, ""))
	m.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"+strings.Join(m.swaps, ""))
	list, err := Devices(m.t.Context(), Sources{Sys: m.root + "/sys", Proc: m.root + "/proc", Dev: m.root + "/dev"})
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string]Device{}
	for _, d := range list {
		out[d.Name] = d
	}
	return out
}
