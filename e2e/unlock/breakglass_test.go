package unlock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// with the broker gone, two of three people open a volume on its machine; when the broker is back, its log has it.
func TestBreakGlass_withoutABrokerThenOnItsLog(t *testing.T) {
	eachOwn(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{KeyBits: 256})
		m.approve(0, d.ID)
		keep(t, filepath.Join(m.mountPoint(0), "kept"))

		dir := tempDir(t)
		words, two := filepath.Join(dir, "three"), filepath.Join(dir, "two")
		write(t, words, []byte("the words of alice\nthe words of bob\nthe words of carol\n"))
		write(t, two, []byte("the words of carol\nthe words of alice\n"))
		if _, err := m.Run(ctx, "recovery-key", "--holder", "alice", "--holder", "bob", "--holder", "carol", "--threshold", "2", "--out", dir+"/shares",
			"--passphrases-file", words); err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile(dir + "/shares/recovery-key.pub")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.user("sam", api.RoleSecurityAdmin).SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(public)}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Run(ctx, "publish"); err != nil { // else within a quarter of an hour
			t.Fatal(err)
		}
		glass := []string{"break-glass", "--share", dir + "/shares/share-3.txt", "--share", dir + "/shares/share-1.txt", "--passphrases-file", two}
		within(t, patience, func() error {
			out, err := m.Run(ctx, append(glass, "--check")...)
			if err == nil && !strings.Contains(out, d.ID) {
				err = fmt.Errorf("the rehearsal says %s", out)
			}
			return err
		})

		s.stop(t)
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		clear := filepath.Join(m.dir, "clear")
		if _, err := m.Run(ctx, append(glass, "--disk", m.disks[0], "--mount-point", clear)...); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(clear, "kept")); err != nil {
			t.Error(err)
		}
		if _, err := m.Run(ctx, "close-exported", "--all"); err != nil {
			t.Fatal(err)
		}

		if err := s.broker.Start(); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			if n := m.logged("key", "offline.break-glass-opened"); n != 1 {
				return fmt.Errorf("the log has %d openings, want 1", n)
			}
			return nil
		})
	})
}
