package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// snapshot is a machine that was stopped at a moment, memory and all, and can go on from there any number of times: a
// second instead of a boot. Its Disk is opened anew each time, and must have been untouched until then.
type snapshot struct {
	m   Machine
	dir string
}

// freeze boots the machine, waits until the guest says "ready", and stops it. The caller closes the snapshot.
func (m Machine) freeze(ctx context.Context, each func(string)) (*snapshot, error) {
	dir, err := os.MkdirTemp("", "keyward-vm-")
	if err != nil {
		return nil, err
	}
	s := &snapshot{m: m, dir: dir}
	if err := s.make(ctx, each); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *snapshot) close() error { return os.RemoveAll(s.dir) }

func (s *snapshot) make(ctx context.Context, each func(string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	door := filepath.Join(s.dir, "qmp")
	path, args, err := s.m.qemu(s.dir, "-qmp", "unix:"+door+",server=on,wait=off")
	if err != nil {
		return err
	}
	if err := s.m.initramfs(filepath.Join(s.dir, "initramfs")); err != nil {
		return fmt.Errorf("make the guest's files: %w", err)
	}
	i, err := boot(ctx, path, args)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = i.cmd.Wait()
	}()
	if _, err := i.await(ctx, each, "ready"); err != nil {
		return err
	}
	return s.save(door)
}

// save speaks the QEMU Machine Protocol: JSON objects, one a line.
func (s *snapshot) save(door string) error {
	conn, err := net.Dial("unix", door)
	if err != nil {
		return fmt.Errorf("reach qemu: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	in := bufio.NewReader(conn)
	ask := func(command string, arguments map[string]any) (json.RawMessage, error) {
		text, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
		if err != nil {
			return nil, err
		}
		if _, err := conn.Write(append(text, '\n')); err != nil {
			return nil, err
		}
		for { // events and the greeting come in between
			line, err := in.ReadBytes('\n')
			if err != nil {
				return nil, fmt.Errorf("qemu %s: %w", command, err)
			}
			var a struct {
				Return json.RawMessage `json:"return"`
				Error  json.RawMessage `json:"error"`
			}
			if err := json.Unmarshal(line, &a); err != nil {
				return nil, fmt.Errorf("qemu %s: %w", command, err)
			}
			if a.Error != nil {
				return nil, fmt.Errorf("qemu %s: %s", command, a.Error)
			}
			if a.Return != nil {
				return a.Return, nil
			}
		}
	}
	if _, err := ask("qmp_capabilities", map[string]any{}); err != nil {
		return err
	}
	// A machine that is stopped here would stay so; migrating stops it at the right moment by itself.
	if _, err := ask("migrate-set-parameters", map[string]any{"max-bandwidth": 8 << 30}); err != nil {
		return err
	}
	if _, err := ask("migrate", map[string]any{"uri": "exec:cat >" + s.state()}); err != nil {
		return err
	}
	for {
		answer, err := ask("query-migrate", map[string]any{})
		if err != nil {
			return err
		}
		var progress struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := json.Unmarshal(answer, &progress); err != nil {
			return err
		}
		switch progress.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("save the machine: %s %s", progress.Status, progress.Error)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *snapshot) state() string { return filepath.Join(s.dir, "state") }

// resume lets the machine go on from where it was stopped.
func (s *snapshot) resume(ctx context.Context) (*instance, error) {
	path, args, err := s.m.qemu(s.dir, "-incoming", "exec:cat "+s.state())
	if err != nil {
		return nil, err
	}
	return boot(ctx, path, args)
}
