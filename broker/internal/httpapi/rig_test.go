package httpapi_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/account"
	"keyward/broker/internal/attest"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/dsm"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/job"
	"keyward/broker/internal/keyexport"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/pki"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/e2e/lab"
	"keyward/rbac"
)

// rig is a broker of both interfaces on real TLS listeners, with a clock that tests move.
type rig struct {
	t        *testing.T
	store    *store.Store
	offset   atomic.Int64
	ca       *pki.CA
	root     keystore.Root
	accounts *account.Service
	desk     job.Desk
	policies *policyset.Service
	requests *keyrequest.Service
	dsm      *dsm.Service
	exports  *keyexport.Service
	feed     *feed.Hub
	people   *httpapi.Router
	agents   *httpapi.Router
	cloud    *lab.Cloud // whose documents the broker believes
	peopleAt string
	agentsAt string
	stop     func()
	orgs     []*org
	calls    callLog // of machines
}

// callLog counts the calls of each route.
type callLog struct {
	mu sync.Mutex
	of map[string]int
}

func (l *callLog) saw(method, route string, _ int, _ time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]int{}
	}
	l.of[method+" "+route]++
}

func (l *callLog) count(route string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[route]
}

const password = "Correct-Horse-7"

// each runs f on a rig over each kind of database.
func each(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		ca, err := pki.NewCA("Keyward test", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		root, err := keystore.CreateRootFile(filepath.Join(t.TempDir(), "root.key"))
		if err != nil {
			t.Fatal(err)
		}
		f(t, start(t, dsn, ca, root, "127.0.0.1:0"))
	})
}

// region is the cloud of every rig; making its key takes longer than most tests.
var region = sync.OnceValues(func() (*lab.Cloud, error) { return lab.NewCloud("eu-central-1") })

// start opens a broker on a database; stopping it leaves the database as a killed process would.
func start(t *testing.T, dsn string, ca *pki.CA, root keystore.Root, address string) *rig {
	t.Helper()
	r := &rig{t: t, ca: ca, root: root, feed: &feed.Hub{}}
	log := &syncBuffer{}
	quiet := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the broker's log:\n%s", log)
		}
	})
	cloud, err := region()
	if err != nil {
		t.Fatal(err)
	}
	r.cloud = cloud
	st, err := store.Open(t.Context(), store.Options{DSN: dsn, Clock: r.now, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	r.store = st
	peopleListener, agentListener := r.listen("127.0.0.1:0"), r.listen(address)
	r.peopleAt, r.agentsAt = "https://"+peopleListener.Addr().String(), "https://"+agentListener.Addr().String()

	r.accounts = account.New(account.Deps{Store: st, Root: root, ServiceURL: r.agentsAt, CAPin: ca.Pin(), Clock: r.now, Logger: quiet,
		OnCreate: []func(*store.Tenant) error{policyset.Prepare}})
	inv := inventory.New(inventory.Deps{Store: st, Feed: r.feed, Root: root, Issuer: ca, AgentURL: r.agentsAt, Clock: r.now, Logger: quiet})
	challenges := challenge.New(nil)
	jobs := job.New(job.Deps{Store: st, Feed: r.feed, Root: root, AgentURL: r.agentsAt, Logger: quiet, Challenges: challenges})
	r.desk = job.Desk{Service: inv, Jobs: jobs}
	r.policies = policyset.New(st, r.feed)
	r.dsm = dsm.New(dsm.Deps{Store: st, Root: root, Clock: r.now, Logger: quiet, AllowLoopback: true})
	recoveries := recovery.New(recovery.Deps{Store: st, Feed: r.feed, Root: root, AgentURL: r.agentsAt, Logger: quiet})
	r.exports = keyexport.New(keyexport.Deps{Store: st, Feed: r.feed, Root: root, Recovery: recoveries})
	r.requests = keyrequest.New(keyrequest.Deps{Managers: r.dsm, Store: st, Feed: r.feed, Root: root, Jobs: jobs, Logger: quiet, Challenges: challenges, Waiting: r.exports,
		Clouds: attest.Clouds{AWS: map[string][]*x509.Certificate{r.cloud.Region: {r.cloud.Certificate}}}})
	roles, err := rbac.New()
	if err != nil {
		t.Fatal(err)
	}
	base, cancel := context.WithCancel(context.Background())
	peopleApp := httpapi.NewApp(httpapi.AppOptions{Name: "people", Base: base, Logger: quiet})
	r.people = httpapi.NewRouter(peopleApp, "/api/v1", "Keyward", "test", &httpapi.PeopleGate{Sessions: r.accounts, Roles: roles}, quiet)
	httpapi.RegisterPeople(r.people, httpapi.PeopleDeps{Inventory: r.desk, Policies: r.policies, Previews: preview.New(st), Requests: r.requests, Feed: r.feed, DeepSecurity: r.dsm,
		Sessions: r.accounts, Roles: roles, Pulse: 100 * time.Millisecond})
	_, auditKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	httpapi.RegisterAccount(r.people, httpapi.LimitLogOn(r.accounts, r.now), audit.New(st, auditKey, r.now))
	agentApp := httpapi.NewApp(httpapi.AppOptions{Name: "agents", Base: base, Logger: quiet, Observe: r.calls.saw})
	r.agents = httpapi.NewRouter(agentApp, "/agent/v1", "Keyward agents", "test", &httpapi.MachineGate{Store: st, Clock: r.now}, quiet)
	httpapi.RegisterAgents(r.agents, httpapi.AgentDeps{Inventory: inv, Requests: r.requests, Jobs: jobs})
	httpapi.RegisterRecovery(r.people, r.agents, recoveries)
	httpapi.RegisterExports(r.people, r.exports)
	serve(t, peopleApp, peopleListener)
	serve(t, agentApp, agentListener)
	r.stop = func() {
		cancel()
		_ = peopleApp.ShutdownWithTimeout(time.Second)
		_ = agentApp.ShutdownWithTimeout(time.Second)
		_ = st.Close()
	}
	t.Cleanup(func() { r.stop() })
	return r
}

// syncBuffer keeps the broker's log until the test is over.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (r *rig) listen(address string) net.Listener {
	t := r.t
	t.Helper()
	chain, key, err := r.ca.IssueServer([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return httpapi.Secure(ln, &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: r.ca.Pool(),
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}, r.now)
}

func serve(t *testing.T, app *fiber.App, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); _ = app.Listener(ln) }()
	t.Cleanup(func() { <-done })
}

// now is the broker's time: it stands still but for what tests move it, and a microsecond a look, so that things keep
// their order. Real time would decide tests of timers on a busy machine.
func (r *rig) now() time.Time {
	return rigStart.Add(time.Duration(r.offset.Add(int64(time.Microsecond))))
}

var rigStart = time.Now()

// later moves the broker's clock and lets its timers run.
func (r *rig) later(d time.Duration) {
	r.t.Helper()
	r.offset.Add(int64(d))
	for _, tick := range []func(context.Context) error{r.requests.Tick, r.desk.Jobs.Tick, r.exports.Tick, r.requests.Clean} {
		if err := tick(r.t.Context()); err != nil {
			r.t.Fatalf("timers: %v", err)
		}
	}
	if d < 20*time.Minute {
		return
	}
	for _, o := range r.orgs { // sessions end when they are idle for long
		for role, p := range o.as {
			p.UseToken(o.logOn(string(role)).Token())
		}
	}
}

// org is an account with a person of each role, who are logged on when they are first needed.
type org struct {
	*rig
	id, name string
	mu       sync.Mutex
	as       map[api.Role]*client.People
	admin    *client.People
	approver *client.People
}

var allRoles = []api.Role{api.RoleAccountAdmin, api.RoleSecurityAdmin, api.RoleDataAnalyst, api.RoleAuditor, api.RoleKeyApprover}

func (r *rig) org(name string) *org {
	r.t.Helper()
	first := account.First{Name: string(api.RoleAccountAdmin), Role: api.RoleAccountAdmin, Password: password}
	a, err := r.accounts.Create(r.t.Context(), name, first)
	if err != nil {
		r.t.Fatalf("account: %v", err)
	}
	o := &org{rig: r, id: a.ID, name: name, as: map[api.Role]*client.People{}}
	// The others share the first one's password hash: deriving one takes longer than most tests.
	err = r.store.Tx(r.t.Context(), func(tx *store.Tx) error {
		users := store.In[store.User](tx.Tenant(o.id))
		admin, err := users.First()
		for _, role := range allRoles[1:] {
			if err == nil {
				err = users.Insert(&store.User{Name: string(role), Role: role, PasswordHash: admin.PasswordHash})
			}
		}
		return err
	})
	if err != nil {
		r.t.Fatalf("users: %v", err)
	}
	r.orgs = append(r.orgs, o)
	o.admin, o.approver = o.person(api.RoleAccountAdmin), o.person(api.RoleKeyApprover)
	return o
}

// person is the account's person of a role, logged on.
func (o *org) person(role api.Role) *client.People {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.as[role] == nil {
		o.as[role] = o.logOn(string(role))
	}
	return o.as[role]
}

func (o *org) logOn(user string) *client.People {
	o.t.Helper()
	// A session as log-on makes it, without the password: hashing took most of this package's time. Log-on itself is
	// tested in packages account, server and console.
	token := base64.RawURLEncoding.EncodeToString([]byte(uuid.NewString()))
	hash := sha256.Sum256([]byte(token))
	err := o.store.Tx(o.t.Context(), func(tx *store.Tx) error {
		t := tx.Tenant(o.id)
		u, err := store.In[store.User](t).First(store.Eq("name", user))
		if err != nil {
			return err
		}
		return store.In[store.Session](t).Insert(&store.Session{UserID: u.ID, TokenHash: hash[:], Address: "127.0.0.1", UserAgent: "test",
			LastSeenAt: tx.Now(), ExpiresAt: tx.Now().Add(account.SessionLife)})
	})
	if err != nil {
		o.t.Fatalf("log on %s: %v", user, err)
	}
	p, err := client.NewPeople(o.peopleAt, o.ca.CACert())
	if err != nil {
		o.t.Fatal(err)
	}
	p.UseToken(token)
	o.t.Cleanup(p.Close)
	return p
}

func (o *org) token(uses int) string {
	o.t.Helper()
	info, err := o.accounts.CreateToken(o.t.Context(), o.principal(), api.EnrolmentTokenWrite{Uses: uses, ExpireSeconds: 3600})
	if err != nil {
		o.t.Fatalf("token: %v", err)
	}
	return info.Token
}

// box is an enrolled machine.
type box struct {
	*org
	*client.Agent
	id, host string
	cert     tls.Certificate
	held     map[string]bool // mounted, by request
}

func newCSR(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (o *org) enrolment(host string) (*ecdsa.PrivateKey, api.EnrolRequest) {
	o.t.Helper()
	key, csr := newCSR(o.t)
	return key, api.EnrolRequest{AccountID: o.id, CSR: csr, Provider: "native", Time: o.now(),
		Instance: api.InstanceInfo{Identity: "id-" + host, HostName: host, Location: "lab", ImageIdentity: "image-" + host, AgentVersion: "1.0.0"}}
}

// machine enrols a machine of a name.
func (o *org) machine(host string) *box {
	o.t.Helper()
	return o.machineBy(host, o.token(1))
}

// machineBy enrols a machine with a token.
func (o *org) machineBy(host, token string) *box {
	o.t.Helper()
	key, in := o.enrolment(host)
	res, err := client.Enrol(o.t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: token, Request: in})
	if err != nil {
		o.t.Fatalf("enrol %s: %v", host, err)
	}
	block, _ := pem.Decode([]byte(res.Certificate))
	cert := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	return &box{org: o, Agent: o.agent(cert), id: res.InstanceID, host: host, cert: cert, held: map[string]bool{}}
}

func (r *rig) agent(cert tls.Certificate) *client.Agent {
	r.t.Helper()
	a, err := client.NewAgent(client.AgentOptions{URL: r.agentsAt, CA: r.ca.CACert(), Cert: cert})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(a.Close)
	return a
}

func disk(name string) api.InventoryDevice {
	return api.InventoryDevice{Identity: "disk-" + name, Name: name, Size: 512 << 20, Information: "test disk", Contents: "empty"}
}

// publish reports devices and returns what the broker has of them, by name.
func (b *box) publish(disks ...api.InventoryDevice) map[string]api.AssignedDevice {
	b.t.Helper()
	list, err := b.PublishInventory(b.t.Context(), api.InventoryReport{Provider: "native", Devices: disks,
		Instance: api.InstanceInfo{Identity: "id-" + b.host, HostName: b.host, Location: "lab", ImageIdentity: "image-" + b.host, AgentVersion: "1.0.0"}})
	if err != nil {
		b.t.Fatalf("publish: %v", err)
	}
	out := map[string]api.AssignedDevice{}
	for _, d := range list.Devices {
		out[d.Name] = d
	}
	return out
}

// wantProblem fails unless err is a problem of the slug with everything that a reader needs.
func wantProblem(t *testing.T, err error, status int, slug string) {
	t.Helper()
	if !client.Is(err, slug) || client.StatusOf(err) != status {
		t.Fatalf("got %v, want problem %s with status %d", err, slug, status)
	}
	if text := err.Error(); !strings.Contains(text, "; ") {
		t.Errorf("%q says nothing about what to do next", text)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func eq[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}
