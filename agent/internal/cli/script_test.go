package cli

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/argon2"
	"golang.org/x/sys/unix"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/brokertest"
	"keyward/agent/internal/mount"
	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/client/recovery"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyward-agent": func() { os.Exit(Main(os.Args[1:])) }})
}

type brokerKey struct{}

// TestScript runs testdata/script. Each script has a broker of its own, reached at $URL with $ACCOUNT and $TOKEN, and
// the command "broker" that makes its people act.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			b := brokertest.New(t)
			env.Values[brokerKey{}] = b
			env.Setenv("URL", b.URL())
			env.Setenv("ACCOUNT", b.AccountID)
			env.Setenv("TOKEN", b.Token())
			env.Setenv("KEYWARD_AGENT_CONFIG", filepath.Join(env.WorkDir, "agent.yaml"))
			env.Setenv("KEYWARD_AGENT_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("KEYWARD_AGENT_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
			env.Defer(func() { clean(t, env.WorkDir) })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "volumes":
				_, fuse := os.Stat("/dev/fuse")
				_, loop := os.Stat("/dev/loop-control")
				return os.Geteuid() == 0 && fuse == nil && loop == nil, nil
			case "cryptsetup":
				_, err := os.Stat("/usr/sbin/cryptsetup")
				return err == nil, nil
			}
			return false, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"broker": brokerCommand, "damage": damage, "leave-no-mounts": noMounts,
			"code": exitCodeIs, "cp-token": copyToken},
	})
}

// brokerCommand is what people do at the broker.
//
//	broker encrypt NAME FILESYSTEM MOUNTPOINT   configure a published device and have it encrypted
//	broker pending NAME                         wait for its key request
//	broker approve NAME                         approve its request and wait for the mount
//	broker revoke NAME                          revoke its key and wait for the report
//	broker record NAME FILE                     write the volume's record
//	broker export NAME PASSPHRASE FILE          write its key as the key export does
//	broker recovery-key FILE                    give the account a recovery key
//	broker offline-records EVENT...             wait for records of what the machine did without the broker
//	broker stop | start
func brokerCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: broker WORD ...")
	}
	b := ts.Value(brokerKey{}).(*brokertest.Broker)
	id := ""
	if len(args) > 1 && !strings.Contains(args[0], "-") {
		id = b.Published(args[1]).ID
	}
	switch args[0] {
	case "encrypt":
		b.Configure(id, args[2], args[3], api.AccessReadWrite, 256)
		if p := b.JobEnd(b.Encrypt(id, false)); !p[len(p)-1].Done {
			ts.Fatalf("encrypt job: %+v", p[len(p)-1])
		}
	case "pending":
		b.Asked(id, api.KeyPending)
	case "approve":
		q := b.Asked(id, api.KeyPending, api.KeyRevoked)
		b.Decide(q.ID, api.KeyApproved, "approved by a person")
		b.Reported(q.ID, api.EventMounted)
	case "revoke":
		q := b.Asked(id, api.KeyDelivered)
		b.Revoke(q.ID, api.RevokeUnmount, "revoked by a person")
		b.Reported(q.ID, api.EventRevoked)
	case "record":
		text, err := json.Marshal(b.Published(args[1]).Volume)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), text, 0o600))
	case "export":
		d := b.Published(args[1])
		text, err := sealExport(d.ID, d.Name, *d.Volume, d.PlainKey(), args[2])
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[3]), text, 0o600))
	case "recovery-key":
		text, err := os.ReadFile(ts.MkAbs(args[1]))
		ts.Check(err)
		key, err := recovery.ParsePublicKey(text)
		ts.Check(err)
		b.SealTo(key)
	case "offline-records":
		b.OfflineRecords(args[len(args)-1], func(told []string) bool {
			told = slices.DeleteFunc(told, func(event string) bool { // starts and stops are told among them
				return strings.HasPrefix(event, "agent-") || strings.HasPrefix(event, "machine-")
			})
			return strings.HasSuffix(strings.Join(told, " "), strings.Join(args[1:], " "))
		})
	case "stop":
		b.Stop()
	case "start":
		b.Start()
	default:
		ts.Fatalf("broker %s is not known", args[0])
	}
}

// sealExport seals a device key as documented at client.ExportFile.
func sealExport(id, name string, volume api.VolumeRecord, key []byte, passphrase string) ([]byte, error) {
	record, err := json.Marshal(volume)
	if err != nil {
		return nil, err
	}
	random := make([]byte, 16+12)
	_, _ = rand.Read(random)
	salt, nonce := random[:16], random[16:]
	f := client.ExportFile{Version: client.ExportVersion, Device: client.ExportDevice{ID: id, Name: name},
		Volume: base64.StdEncoding.EncodeToString(record),
		KDF:    client.ExportKDF{Name: client.ExportKDFName, Time: 1, MemoryKiB: 8 << 10, Threads: 1, Salt: base64.StdEncoding.EncodeToString(salt)},
		Key:    client.ExportKey{Cipher: client.ExportCipher}}
	block, err := aes.NewCipher(argon2.IDKey([]byte(passphrase), salt, 1, 8<<10, 1, 32))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	f.Key.Text = base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, key, f.AAD()))
	return xml.Marshal(f)
}

// damage FILE OFFSET LENGTH overwrites bytes with zeroes.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(make([]byte, n), off)
	ts.Check(err)
	ts.Check(f.Close())
}

// noMounts fails if anything is mounted below the script's folder.
func noMounts(ts *testscript.TestScript, _ bool, _ []string) {
	mounts, err := mount.Mounts()
	ts.Check(err)
	for _, m := range mounts {
		if strings.HasPrefix(m.Mountpoint, ts.Getenv("WORK")+"/") {
			ts.Fatalf("left mounted: %s", m.Mountpoint)
		}
	}
}

// clean ends what a failed script left behind.
func clean(t *testing.T, dir string) {
	mounts, err := mount.Mounts()
	if err != nil {
		t.Error(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Mountpoint, dir+"/") {
			t.Errorf("left mounted: %s", m.Mountpoint)
			_ = unix.Unmount(m.Mountpoint, unix.MNT_FORCE)
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
		}
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := attach.Stale(context.Background(), filepath.Join(dir, "run", "volumes"), log); err != nil {
		t.Error(err)
	}
}

// exitCodeIs runs the agent: code NUMBER ARGUMENTS.
func exitCodeIs(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec("keyward-agent", args[1:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("keyward-agent %s ended with %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// copyToken writes the enrolment token to a file.
func copyToken(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(ts.Getenv("TOKEN")+"\n"), 0o600))
}
