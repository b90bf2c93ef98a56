package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"keyward/e2e/lab"
)

// What a run of the broker's benchmark takes.
type brokerPlan struct {
	rounds, window, workers int
	// storm is how many machines ask at once; lone how many one after the other.
	storm, lone int
	// fill are the sizes of the inventory at which a request's cost is measured.
	fill []int
	// interval is that of heartbeats.
	interval time.Duration
}

func planOf(o options) (p brokerPlan) {
	defer func() {
		if o.storm > 0 {
			p.storm = o.storm
		}
		if o.window > 0 {
			p.window = o.window
		}
		if o.devices > 0 {
			p.fill = []int{max(o.devices/5, 1), o.devices}
		}
	}()
	if o.quick {
		return brokerPlan{rounds: 1, window: 60, workers: 16, storm: 200, lone: 40, fill: []int{300, 600}, interval: time.Second}
	}
	return brokerPlan{rounds: 5, window: 1000, workers: 64, storm: 10000, lone: 500, fill: []int{20000, 100000}, interval: 30 * time.Second}
}

// contender is a server that machines get something from.
type contender struct {
	name, serves, database string
	call                   caller
	machines               []*fleetMachine
	// pids are the server's processes, with all below them.
	pids []int
	// used is how many machines have called: none calls twice.
	used    int
	windows []load
}

// take gives out machines that have not called yet.
func (c *contender) take(n int) ([]*fleetMachine, error) {
	if c.used+n > len(c.machines) {
		return nil, fmt.Errorf("%s has machines for %d calls only", c.name, len(c.machines))
	}
	c.used += n
	return c.machines[c.used-n : c.used], nil
}

func (c *contender) run(ctx context.Context, n, workers int) (load, error) {
	machines, err := c.take(n)
	if err != nil {
		return load{}, err
	}
	before := cpuOf(c.pids)
	l := storm(ctx, machines, workers, c.call)
	l.cpu = cpuOf(c.pids) - before
	slices.Sort(l.latency)
	if l.failures > n/100 {
		return l, fmt.Errorf("%s failed %d of %d: %w", c.name, l.failures, n, l.failed)
	}
	return l, ctx.Err()
}

// benchBroker measures deliveries of keys beside a bare TLS server that seals the same message.
func benchBroker(ctx context.Context, o options) (err error) {
	plan := planOf(o)
	wants := func(step string) bool { return o.cases == nil || o.cases.MatchString(step) }
	dir, err := os.MkdirTemp("/var/tmp", "keyward-bench-broker-") // a disk: commits are durable
	if err != nil {
		return err
	}
	site := &brokerSite{dir: dir, plan: plan, out: o.out}
	defer func() { err = errors.Join(err, site.close()) }()
	for _, program := range []string{"broker", "broker/internal/fleet/seed"} {
		if _, err := run(ctx, "go", "build", "-o", filepath.Join(dir, "keyward-"+filepath.Base(program)), "./"+program); err != nil {
			return fmt.Errorf("%w (start the benchmark from the top of the repository)", err)
		}
	}
	if err := site.startBrokers(ctx); err != nil {
		return err
	}
	if err := site.startFloors(ctx); err != nil {
		return err
	}
	if err := site.startTang(ctx); err != nil {
		site.out.missing("broker", "tang", err.Error())
	}
	if wants("windows") {
		if err := site.windows(ctx); err != nil {
			return err
		}
	}
	for _, b := range site.brokers {
		for _, step := range []struct {
			name string
			run  func(context.Context, *benchedBroker) error
		}{{"lone", site.lone}, {"storm", site.storm}, {"beats", site.beats}, {"grow", site.grow}} {
			if !wants(b.database + " " + step.name) {
				continue
			}
			if err := step.run(ctx, b); err != nil {
				return fmt.Errorf("%s on %s: %w", step.name, b.database, err)
			}
		}
	}
	return nil
}

// brokerSite is what runs during the benchmark.
type brokerSite struct {
	dir     string
	plan    brokerPlan
	out     *report
	brokers []*benchedBroker
	all     []*contender
	undo    []func() error
}

// benchedBroker is a broker and how to give it more machines.
type benchedBroker struct {
	*contender
	lab  *lab.Broker
	seed func(ctx context.Context, machines int, silent bool) ([]*fleetMachine, error)
	size int
}

func (s *brokerSite) close() error {
	var errs []error
	for _, f := range slices.Backward(s.undo) {
		errs = append(errs, f())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (s *brokerSite) startBrokers(ctx context.Context) error {
	if err := s.startBroker(ctx, "sqlite", "", nil); err != nil {
		return err
	}
	pg, err := lab.StartPostgres(ctx, "fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=128MB")
	if errors.Is(err, lab.ErrNoPostgres) {
		s.out.missing("broker", "postgres", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	s.undo = append(s.undo, func() error { pg.Close(); return nil })
	dsn, err := pg.NewDatabase(ctx)
	if err != nil {
		return err
	}
	return s.startBroker(ctx, "postgres", dsn, []int{pg.PID()})
}

func (s *brokerSite) startBroker(ctx context.Context, database, dsn string, pids []int) error {
	dir := filepath.Join(s.dir, database)
	rootKey := filepath.Join(s.dir, database+"-root-key", "root.key")
	b, err := lab.StartBroker(ctx, lab.BrokerOptions{Bin: filepath.Join(s.dir, "keyward-broker"), Dir: dir, RootKey: rootKey, DSN: dsn,
		Account: "bench", Admin: "ada", Approver: "grace"})
	if err != nil {
		return err
	}
	s.undo = append(s.undo, func() error { return b.Stop(15 * time.Second) })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.CA)
	one := &benchedBroker{lab: b, contender: &contender{name: "keyward", serves: "key delivery", database: database,
		call: askBroker(strings.TrimPrefix(b.AgentURL, "https://"), roots), pids: append(pids, b.PID())}}
	one.seed = func(ctx context.Context, machines int, silent bool) ([]*fleetMachine, error) {
		args := []string{"-data", dir, "-root-key", rootKey, "-account", "bench", "-machines", fmt.Sprint(machines), fmt.Sprintf("-silent=%t", silent)}
		if dsn != "" {
			args = append(args, "-dsn", dsn)
		}
		return seedFleet(ctx, filepath.Join(s.dir, "keyward-seed"), args)
	}
	if one.machines, err = one.seed(ctx, s.plan.storm+(s.plan.rounds+1)*s.plan.window+(1+len(s.plan.fill))*2*s.plan.lone, false); err != nil {
		return err
	}
	one.size = len(one.machines)
	s.brokers, s.all = append(s.brokers, one), append(s.all, one.contender)
	return nil
}

// seedFleet runs the seed program and reads the machines that it made.
func seedFleet(ctx context.Context, program string, args []string) ([]*fleetMachine, error) {
	command := exec.CommandContext(ctx, program, args...)
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	var machines []*fleetMachine
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		m := &fleetMachine{}
		if err = lines.Decode(m); err != nil {
			break
		}
		if m.tls, err = tls.X509KeyPair([]byte(m.Cert), []byte(m.Key)); err != nil {
			break
		}
		machines = append(machines, m)
	}
	if err != io.EOF {
		command.Process.Kill()
		return nil, errors.Join(fmt.Errorf("seed: %w", err), command.Wait())
	}
	return machines, command.Wait()
}

// startFloors starts the bare servers. They trust the machines of the first broker.
func (s *brokerSite) startFloors(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, kind := range []string{"seal", "echo"} {
		command := exec.CommandContext(ctx, self, "floor", kind, s.brokers[0].lab.CAFile)
		command.Stderr = os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := command.StdoutPipe()
		if err != nil {
			return err
		}
		if err := command.Start(); err != nil {
			return err
		}
		s.undo = append(s.undo, func() error { command.Process.Kill(); command.Wait(); return nil })
		var said struct{ Address, CA string }
		if err := json.NewDecoder(out).Decode(&said); err != nil {
			return fmt.Errorf("start the bare server: %w", errors.Join(errNoAddress, err))
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(said.CA))
		c := &contender{name: "tls-" + kind, serves: "one message", machines: slices.Repeat(s.brokers[0].machines, 2), pids: []int{command.Process.Pid}}
		if kind == "seal" {
			c.serves, c.call = "HPKE seal only", exchange(said.Address, roots, openFloor, encBytes+sealedBytes)
		} else {
			c.call = exchange(said.Address, roots, nil, publicBytes)
		}
		s.all = append(s.all, c)
	}
	return nil
}

// cpuOf is the processor time that processes and all below them have used.
func cpuOf(pids []int) (total time.Duration) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	parent, used := map[int]int{}, map[int]time.Duration{}
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		var state string
		var ppid, skip int
		var user, system, cuser, csystem int64
		if _, err := fmt.Sscan(rest, &state, &ppid, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system, &cuser, &csystem); err == nil {
			parent[pid], used[pid] = ppid, time.Duration(user+system+cuser+csystem)*userHZ
		}
	}
	for pid, t := range used {
		for p := pid; p > 1; p = parent[p] {
			if slices.Contains(pids, p) {
				total += t
				break
			}
		}
	}
	return total
}
