package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// passphrase unlocks the peers' LUKS1 images.
const passphrase = "bench passphrase"

// peer is an NBD server as the benchmark starts it: program and arguments for a socket and an image.
type peer struct {
	name      string
	encrypted bool
	program   string
	// prepare makes what the server needs beyond the image; nil for nothing.
	prepare func(ctx context.Context, image string) error
	args    func(socket, image string) []string
}

func peers() []peer {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	own := func(kind string) func(socket, image string) []string {
		return func(socket, image string) []string { return []string{"serve", kind, socket, image} }
	}
	return []peer{
		{name: "keyward", encrypted: true, program: self, args: own("keyward")},
		{name: "keyward-clear", program: self, args: own("keyward-clear")},
		{name: "nbdkit-file", program: "nbdkit", args: func(socket, image string) []string {
			return []string{"-f", "-U", socket, "file", image}
		}},
		{name: "nbdkit-null", program: "nbdkit", args: func(socket, image string) []string {
			return []string{"-f", "-U", socket, "null", strconv.FormatInt(imageSize, 10)}
		}},
		{name: "nbdkit-luks", encrypted: true, program: "nbdkit", prepare: formatLUKS1, args: func(socket, image string) []string {
			return []string{"-f", "-U", socket, "--filter=luks", "file", image, "passphrase=" + passphrase}
		}},
		{name: "qemu-raw", program: "qemu-nbd", args: func(socket, image string) []string {
			return []string{"-k", socket, "-f", "raw", "-t", "-e", "16", image}
		}},
		{name: "qemu-luks", encrypted: true, program: "qemu-nbd", prepare: formatLUKS1, args: func(socket, image string) []string {
			return []string{"-k", socket, "-t", "-e", "16", "--object", "secret,id=s,data=" + passphrase,
				"--image-opts", "driver=luks,key-secret=s,file.driver=file,file.filename=" + image}
		}},
		{name: "go-nbd", program: self, args: own("go-nbd")},
	}
}

// formatLUKS1 puts a LUKS1 header (aes-256, xts, plain64) on the image by qemu-img: the only encryption that the peers
// have.
func formatLUKS1(ctx context.Context, image string) error {
	for try := 1; ; try++ {
		out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,data="+passphrase,
			"-o", "key-secret=s,iter-time=10,preallocation=full", image, strconv.FormatInt(imageSize, 10)).CombinedOutput()
		if err == nil {
			return nil
		}
		// qemu measures how fast the processor derives keys, and gives up when its clock has not moved meanwhile.
		if try == 5 || !bytes.Contains(out, []byte("accurate CPU usage")) {
			return fmt.Errorf("qemu-img create: %w: %s", err, out)
		}
	}
}

// running is a started server.
type running struct {
	peer
	socket  string
	command *exec.Cmd
}

// start makes the image and runs the server until stop. Every server has a copy of its own to work on.
func (p peer) start(ctx context.Context, dir string) (*running, error) {
	if _, err := exec.LookPath(p.program); err != nil {
		return nil, fmt.Errorf("%s is not installed", p.program)
	}
	image, socket := filepath.Join(dir, p.name+".img"), filepath.Join(dir, p.name+".sock")
	make := makeImageOf
	if p.prepare != nil {
		make = p.prepare
	}
	if err := make(ctx, image); err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, p.program, p.args(socket, image)...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	r := &running{peer: p, socket: socket, command: command}
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return r, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.stop()
	return nil, fmt.Errorf("%s did not listen within 10 s", p.name)
}

func makeImageOf(ctx context.Context, image string) error { return makeImage(ctx, image, imageSize) }

func (r *running) stop() {
	r.command.Process.Kill()
	r.command.Wait()
}

// userHZ is the unit of processor times in /proc: 100 a second on Linux.
const userHZ = time.Second / 100

// cpu is the processor time that the server has used.
func (r *running) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.command.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * userHZ
}

// window runs one workload against the server.
func (r *running) window(ctx context.Context, w workload, runtime time.Duration) (m measured, err error) {
	before, busy, children, started := r.cpu(), busyTime(), childrenTime(), time.Now()
	uri := "nbd+unix:///?socket=" + r.socket
	var bytes float64
	if w.copied {
		m, bytes, err = nbdcopy(ctx, w, uri, filepath.Join(filepath.Dir(r.socket), copySource))
	} else {
		m, err = fio(ctx, w, imageSize-payloadSlack, runtime, "--ioengine=nbd", "--uri="+uri)
		bytes = m.mibs * (1 << 20) * (runtime + fioRamp).Seconds()
	}
	if err == nil && bytes > 0 {
		used := r.cpu() - before
		m.cpuPerGB = used.Seconds() / bytes * 1e9
		m.others = max((busyTime()-busy-used-(childrenTime()-children)).Seconds()/time.Since(started).Seconds(), 0)
	}
	return m, err
}
