package attach

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/agent/internal/attach/handover"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// agentSpec is what an agent in another process attaches: a file as it is, or with a Record the volume in it.
type agentSpec struct {
	Image, UUID, Dir, Kind string
	Connections            int
	Timeout                time.Duration
	Reattach               bool
	Record                 *luks2.Record
	Secret                 []byte // of the volume; only tests pass a key like this
}

// TestMain lets the test binary play an agent that is killed or upgraded: it attaches a volume and waits.
func TestMain(m *testing.M) {
	if spec := os.Getenv("KEYWARD_TEST_AGENT"); spec != "" {
		if err := playAgent(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// openSpec opens the Device that an agent attaches, and returns a copy of its key for a successor.
func openSpec(spec agentSpec, key *keymem.Key) (blockdev.Device, *keymem.Key, error) {
	if spec.Record == nil {
		image, err := os.OpenFile(spec.Image, os.O_RDWR, 0)
		return fileDevice{image}, nil, err
	}
	dev, err := blockdev.OpenFile(spec.Image, blockdev.FileOptions{})
	if err != nil {
		return nil, nil, err
	}
	spare, err := key.Clone()
	if err != nil {
		return nil, nil, err
	}
	vol, err := nbdcrypt.Open(dev, *spec.Record, key, nbdcrypt.Options{})
	return vol, spare, err
}

// playAgent says where the block device is, once for each of its lives, and attaches until its input ends. SIGHUP makes it
// hand over to a new life of itself.
func playAgent(text string) error {
	var spec agentSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	former, err := handover.Receive()
	if err != nil {
		return err
	}
	upgrade := make(chan os.Signal, 1)
	signal.Notify(upgrade, unix.SIGHUP)

	var key *keymem.Key
	var conns []*os.File
	switch {
	case former != nil && len(former.Keys) > 0:
		key, conns = former.Keys[0], former.Files
	case former != nil:
		conns = former.Files
	case spec.Record != nil:
		if key, err = keymem.FromBytes(spec.Secret); err != nil {
			return err
		}
	}
	dev, spare, err := openSpec(spec, key)
	if err != nil {
		return err
	}
	o := Options{Kind: spec.Kind, VolumeUUID: spec.UUID, RuntimeDir: spec.Dir, Connections: spec.Connections, Timeout: spec.Timeout,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	var a Attachment
	switch {
	case former != nil:
		a, err = Adopt(context.Background(), dev, o, conns)
	case spec.Reattach:
		a, err = Reattach(context.Background(), dev, o)
	default:
		a, err = Attach(context.Background(), dev, o)
	}
	if err != nil {
		return err
	}
	fmt.Println(a.Path())
	over := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // until killed, or the test ends
		close(over)
	}()
	select {
	case <-over:
		return a.Close()
	case <-upgrade:
	}
	// With the secret in the environment a successor could do without the hand-over; the test must not.
	spec.Secret = nil
	left, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	files, err := a.(Releaser).Release(context.Background())
	if err != nil {
		return err
	}
	p := handover.Parcel{Files: files}
	if spare != nil {
		p.Keys = append(p.Keys, spare)
	}
	env := []string{"KEYWARD_TEST_AGENT=" + string(left)}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "KEYWARD_TEST_AGENT=") {
			env = append(env, e)
		}
	}
	return handover.Exec("/proc/self/exe", os.Args, env, p)
}

// fileDevice is the least Device on a file.
type fileDevice struct{ *os.File }

func (f fileDevice) Size() int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

var _ blockdev.Device = fileDevice{}

// process is an agent in another process.
type process struct {
	*exec.Cmd
	t     *testing.T
	lines chan string
	input io.Closer
	log   *bytes.Buffer // valid once the process has ended
}

// startAgent runs an agent in another process and returns it with its block device.
func startAgent(t *testing.T, spec agentSpec) (*process, string) {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(os.Args[0]), t: t, lines: make(chan string, 100), log: new(bytes.Buffer)}
	p.Env = append(os.Environ(), "KEYWARD_TEST_AGENT="+string(text))
	if p.input, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	p.Stderr = p.log
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			p.lines <- sc.Text()
		}
		close(p.lines)
	}()
	return p, p.attached()
}

// attached waits until a life of the agent has its block device.
func (p *process) attached() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line
		}
	case <-time.After(2 * time.Minute):
	}
	_ = p.Process.Kill()
	_ = p.Wait()
	p.t.Fatalf("the agent did not attach: %s", p.log)
	return ""
}

// end lets the agent detach and waits until it has ended.
func (p *process) end() error {
	p.t.Helper()
	return errors.Join(p.input.Close(), p.Wait())
}

// kill ends the process as the kernel's out-of-memory killer would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.Wait()
}
