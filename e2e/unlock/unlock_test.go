// Package unlock drives real brokers and real agents through the life of encrypted volumes, on SQLite and on PostgreSQL:
// what a policy, a person, an outage or a wrong hand makes of a key request, down to what is mounted on this machine.
package unlock

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// home holds everything of this run: programs, brokers, disks, mount points. Short, because a socket's path is.
var home string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	flag.Parse()
	// The tests mostly wait for processes, so more of them than processors run at a time.
	if !given("test.parallel") {
		flag.Set("test.parallel", "8")
	}
	var err error
	if home, err = os.MkdirTemp("", "kwu"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		for _, kind := range kinds {
			kind.close()
		}
		if left := lab.Traces(home); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "unlock: left behind, and now taken apart by force: %v\n", left)
			code = max(code, 1)
		}
		if err := errors.Join(lab.TearDown(home), os.RemoveAll(home)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}()
	code = m.Run()
	if code != 0 || given("test.run") || given("test.skip") || given("test.list") {
		return code
	}
	for _, kind := range kinds {
		if err := kind.unseen(); err != nil {
			fmt.Fprintln(os.Stderr, "unlock:", err)
			code = 1
		}
	}
	return code
}

func given(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// programs are built from the source under test, once, and not stripped of what `make build` would give them.
var programs = sync.OnceValue(func() error {
	for name, folder := range map[string]string{"keyward-broker": "keyward/broker", "keyward-agent": "keyward/agent"} {
		command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program(name), folder)
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
})

func program(name string) string { return filepath.Join(home, "bin", name) }

// kind is one of the two databases, with the broker that most tests share on it.
type kind struct {
	name string
	once sync.Once
	site *site
	err  error
	// server is PostgreSQL; nil for the embedded database.
	server *lab.Postgres
	seen   ledger
}

// begin is the start of a test on a database.
func (k *kind) begin(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() {
		if t.Skipped() {
			k.seen.skip(t.Name())
		}
	})
}

var kinds = []*kind{{name: "sqlite"}, {name: "postgres"}}

// site is a broker. A token of its first account, made at its start, ends after a minute.
type site struct {
	kind   *kind
	broker *lab.Broker
	brief  api.EnrolmentTokenInfo
}

// each runs f on both databases at once, on the broker that is shared by the whole run.
func each(t *testing.T, f func(t *testing.T, s *site)) {
	needs(t)
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			k.begin(t)
			f(t, k.shared(t))
		})
	}
}

// eachOwn runs f on both databases with a broker of the test's own, for tests that stop or measure it.
func eachOwn(t *testing.T, f func(t *testing.T, s *site)) { eachWith(t, lab.BrokerOptions{}, f) }

// eachWith is eachOwn with a broker that is set up in some way.
func eachWith(t *testing.T, o lab.BrokerOptions, f func(t *testing.T, s *site)) {
	needs(t)
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			k.begin(t)
			k.ready(t)
			s, err := k.start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.stop(t) })
			f(t, s)
		})
	}
}

// eachWired is eachOwn with a broker at the end of a cable, on which machineOn puts machines.
func eachWired(t *testing.T, f func(t *testing.T, s *site, wire *lab.Wire)) {
	needs(t)
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			k.begin(t)
			wire, err := lab.NewWire()
			if errors.Is(err, lab.ErrNoNamespaces) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := wire.Close(); err != nil {
					t.Error(err)
				}
			})
			k.ready(t)
			s, err := k.start(t.Context(), lab.BrokerOptions{Host: wire.Host})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.stop(t) })
			f(t, s, wire)
		})
	}
}

func (k *kind) shared(t *testing.T) *site {
	t.Helper()
	k.ready(t)
	if k.site == nil {
		t.Fatal("the shared broker could not be started")
	}
	return k.site
}

// ready builds programs and starts what the kind needs, once.
func (k *kind) ready(t *testing.T) {
	t.Helper()
	k.once.Do(func() {
		if k.err = programs(); k.err != nil {
			return
		}
		if k.name == "postgres" {
			if k.server, k.err = lab.StartPostgres(context.Background()); k.err != nil {
				return
			}
		}
		k.site, k.err = k.start(context.Background(), lab.BrokerOptions{})
	})
	if errors.Is(k.err, lab.ErrNoPostgres) {
		t.Skip(k.err)
	}
	if k.err != nil {
		t.Fatal(k.err)
	}
}

// start makes a new broker. What the options leave open is chosen.
func (k *kind) start(ctx context.Context, o lab.BrokerOptions) (*site, error) {
	dir, err := os.MkdirTemp(home, "b")
	if err != nil {
		return nil, err
	}
	o.Bin, o.RootKey, o.Account, o.Admin, o.Approver = program("keyward-broker"), filepath.Join(dir, "root", "root.key"), "First", "ada", "kim"
	if o.Dir == "" {
		o.Dir = filepath.Join(dir, "data")
	}
	if k.server != nil {
		if o.DSN, err = k.server.NewDatabase(ctx); err != nil {
			return nil, err
		}
	}
	s := &site{kind: k}
	if s.broker, err = lab.StartBroker(ctx, o); err != nil {
		return nil, err
	}
	admin, err := s.broker.LogOn(ctx, "ada", s.broker.Setup.Admin.Password)
	if err == nil {
		s.brief, err = admin.CreateToken(ctx, api.EnrolmentTokenWrite{Description: "ends soon", Uses: 5, ExpireSeconds: 60})
	}
	return s, err
}

func (s *site) stop(t *testing.T) {
	if err := s.broker.Stop(20 * time.Second); err != nil {
		t.Errorf("%v; it ends:\n%s", err, s.broker.LogTail(20))
	}
	if t.Failed() {
		t.Logf("the broker's log ends:\n%s", s.broker.LogTail(30))
	}
}

func (k *kind) close() {
	if k.site != nil {
		if err := k.site.broker.Stop(20 * time.Second); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if k.server != nil {
		k.server.Close()
	}
}

// needs skips where real volumes cannot be made.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse, or a kernel with nbd")
	}
	for tool, pack := range map[string]string{"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "cryptsetup": "cryptsetup-bin"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s; install %s", tool, pack)
		}
	}
}

// account is a tenant of its own, and its Account Administrator at work.
type account struct {
	t     *testing.T
	site  *site
	setup lab.Setup
	*client.People
}

func newAccount(t *testing.T, s *site) *account {
	t.Helper()
	a := &account{t: t, site: s}
	var err error
	if a.setup, err = s.broker.NewAccount(t.Context(), "acc-"+filepath.Base(tempDir(t))); err != nil {
		t.Fatal(err)
	}
	a.People = a.logOn(a.setup.Admin)
	t.Cleanup(a.look)
	return a
}

func (a *account) logOn(as lab.Login) *client.People {
	a.t.Helper()
	p, err := a.site.broker.LogOnTo(a.t.Context(), a.setup.AccountID, as)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(p.Close)
	return p
}

// user adds a person and opens a session of theirs.
func (a *account) user(name string, role api.Role) *client.People {
	a.t.Helper()
	login := lab.Login{Name: name, Password: "Just+Enough1"}
	in := api.UserWrite{Name: login.Name, Role: role, Password: login.Password}
	if err := a.Do(a.t.Context(), http.MethodPost, "/api/v1/users", in, nil); err != nil {
		a.t.Fatal(err)
	}
	return a.logOn(login)
}

func (a *account) token() string {
	a.t.Helper()
	token, err := a.CreateToken(a.t.Context(), api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600})
	if err != nil {
		a.t.Fatal(err)
	}
	return token.Token
}

// tempDir is a folder with a short name under home.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(home, "t")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// within repeats f until it holds. The time is for machines under load; nothing here is a measure of speed.
func within(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	if err := lab.Eventually(t.Context(), d, f); err != nil {
		t.Fatal(err)
	}
}
