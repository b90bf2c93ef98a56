package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"keyward/e2e/lab"
)

// writer appends numbered files to a folder, each synced before it counts as acknowledged, until it is stopped. Errors
// of a volume that is gone are expected: it goes on when the volume is back.
type writer struct {
	folder string
	stop   chan struct{}
	done   sync.WaitGroup

	mu           sync.Mutex
	acknowledged []int
}

func startWriter(folder string) *writer {
	w := &writer{folder: folder, stop: make(chan struct{})}
	w.done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			if w.write(i) == nil {
				w.mu.Lock()
				w.acknowledged = append(w.acknowledged, i)
				w.mu.Unlock()
			} else {
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	return w
}

func contents(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "record %d\n", i), 400) }

// write makes record i durable: the file and its folder entry.
func (w *writer) write(i int) error {
	// Never outside the volume: the folder exists only on it.
	file, err := os.Create(filepath.Join(w.folder, fmt.Sprintf("%06d", i)))
	if err != nil {
		return err
	}
	if _, err = file.Write(contents(i)); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	folder, err := os.Open(w.folder)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

// finish stops the writer and checks that every acknowledged record is there and whole.
func (w *writer) finish() (int, error) {
	close(w.stop)
	w.done.Wait()
	for _, i := range w.acknowledged {
		have, err := os.ReadFile(filepath.Join(w.folder, fmt.Sprintf("%06d", i)))
		if err != nil {
			return 0, fmt.Errorf("a synced record is lost: %w", err)
		}
		if !bytes.Equal(have, contents(i)) {
			return 0, fmt.Errorf("synced record %d has changed", i)
		}
	}
	return len(w.acknowledged), nil
}

// stepKill ends the agent and then the broker by SIGKILL while files are written.
func (s *show) stepKill(ctx context.Context) error {
	folder := filepath.Join(s.mount, "records")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	w := startWriter(folder)
	more := func(than int) error {
		return lab.Eventually(ctx, 45*time.Second, func() error {
			if n := w.count(); n < than {
				return fmt.Errorf("%d records are synced", n)
			}
			return nil
		})
	}
	err := more(100)
	if err == nil {
		before := s.agent.PID()
		started := time.Now()
		if err = s.agent.Kill(); err == nil {
			synced := w.count()
			if err = more(synced + 100); err == nil {
				say("agent %d killed, %d took over; writing went on after %.1f s", before, s.agent.PID(), time.Since(started).Seconds())
			}
		}
	}
	if err == nil {
		before := s.broker.PID()
		if err = s.broker.Kill(); err == nil {
			if err = s.broker.AwaitReady(ctx); err == nil {
				err = more(w.count() + 100)
				say("broker %d killed, %d took over; writing never stopped", before, s.broker.PID())
			}
		}
	}
	records, checked := w.finish()
	if err = errors.Join(err, checked); err != nil {
		return err
	}
	if err := s.files.Same(filepath.Join(s.mount, "src")); err != nil {
		return err
	}
	say("all %d synced records and all %d files are intact", records, len(s.files))
	return nil
}

// stepAudit exports the log, verifies it with no broker at hand, and changes one byte.
func (s *show) stepAudit(ctx context.Context) error {
	path := filepath.Join(s.dir, "audit.jsonl")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(s.admin.AuditExport(ctx, file), file.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, s.broker.Bin, "audit", "verify", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("verify the audit log: %w: %s", err, out)
	}
	say("%s", strings.TrimSpace(string(out)))
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := bytes.Index(raw, []byte("key-request.approved"))
	if at < 0 {
		return errors.New("the audit log has no record of the approval")
	}
	raw[at] = 'K'
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	out, err = exec.CommandContext(ctx, s.broker.Bin, "audit", "verify", path).CombinedOutput()
	if err == nil {
		return fmt.Errorf("a changed byte was not found: %s", out)
	}
	say("one byte changed: %s", strings.TrimSpace(string(out)))
	return nil
}

// stepCost judges the time from approval to mount by the faster of the two approvals, because another program may keep
// the machine busy during one, and reads what agent and broker occupy.
func (s *show) stepCost(context.Context) error {
	fastest := slices.Min(s.mounted)
	say("from approval to mounted: %.0f ms (limit 1000)", fastest.Seconds()*1e3)
	if fastest > time.Second {
		return fmt.Errorf("from approval to mounted took %s, want under 1 s", fastest)
	}
	for _, limit := range []struct {
		name string
		pid  int
		mib  float64
	}{{"agent", s.agent.PID(), 40}, {"broker", s.broker.PID(), 80}} {
		have, err := lab.ResidentMiB(limit.pid)
		if err != nil {
			return err
		}
		say("%s: %.0f MiB resident (limit %.0f)", limit.name, have, limit.mib)
		if have > limit.mib {
			return fmt.Errorf("the %s occupies %.0f MiB, want under %.0f", limit.name, have, limit.mib)
		}
	}
	return nil
}
