package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrNoPostgres says that PostgreSQL is not installed.
var ErrNoPostgres = errors.New("PostgreSQL is not installed: no folder with initdb, postgres and psql in PATH or /usr/lib/postgresql")

// Postgres is a throw-away PostgreSQL server that is reached over a Unix socket. It ends, and its files go, with this
// process, however that ends.
type Postgres struct {
	dir, bin string
	// alive is the write end of the supervisor's standard input: when it closes, the server goes.
	alive io.Closer
	done  chan struct{}
	next  atomic.Int64
}

// clusterLife makes a cluster, runs its server, and takes both away when standard input ends. Nothing is synced: the
// databases last minutes.
const clusterLife = `
bin=$1
dir=$2
shift 2
"$bin/initdb" -D "$dir/data" -U keyward -A trust -E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 || { touch "$dir/failed"; cat >/dev/null; rm -rf "$dir"; exit 1; }
"$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c max_connections=200 -c shared_buffers=32MB -c fsync=off \
  -c full_page_writes=off -c max_wal_senders=0 -c wal_level=minimal "$@" >"$dir/server.log" 2>&1 <&- &
server=$!
cat >/dev/null
tries=0 # early in its start the server ignores the signal
while [ -e "$dir/data/postmaster.pid" ] && [ $tries -lt 200 ]; do kill -QUIT $server; sleep 0.05; tries=$((tries+1)); done
kill -KILL $server
wait $server
rm -rf "$dir"
`

// StartPostgres starts a server, or returns ErrNoPostgres. It does not survive a loss of power, unless the settings, such
// as "fsync=on", say so.
func StartPostgres(ctx context.Context, settings ...string) (*Postgres, error) {
	p := &Postgres{bin: postgresFolder(), done: make(chan struct{})}
	if p.bin == "" {
		return nil, ErrNoPostgres
	}
	var err error
	if p.dir, err = os.MkdirTemp("", "kwlab-pg"); err != nil {
		return nil, err
	}
	args := []string{"-c", clusterLife, "sh", p.bin, p.dir}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	command := exec.Command("/bin/sh", args...)
	command.Dir = p.dir
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 { // the server refuses to run as root
		if command.SysProcAttr.Credential, err = ownedBy("postgres", p.dir); err != nil {
			return nil, errors.Join(err, os.RemoveAll(p.dir))
		}
	}
	if p.alive, err = command.StdinPipe(); err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), os.RemoveAll(p.dir))
	}
	go func() { command.Wait(); close(p.done) }()
	err = Eventually(ctx, 2*time.Minute, func() error { return p.admin(ctx, "SELECT 1") })
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(p.dir, "initdb.log"))
		p.Close()
		return nil, fmt.Errorf("start PostgreSQL: %w: %s", err, log)
	}
	return p, nil
}

// postgresFolder is where server and client programs lie side by side; in PATH there may be only links to some of them.
func postgresFolder() string {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(folders)
	slices.Reverse(folders)
	if found, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(found))
	}
	for _, folder := range folders {
		whole := !slices.ContainsFunc([]string{"initdb", "postgres", "psql"}, func(name string) bool {
			_, err := os.Stat(filepath.Join(folder, name))
			return err != nil
		})
		if whole {
			return folder
		}
	}
	return ""
}

// ownedBy gives a folder to a user and returns what a process of that user is started with.
func ownedBy(name, dir string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}

func (p *Postgres) admin(ctx context.Context, statement string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(p.bin, "psql"), "-X", "-q", "-h", p.dir, "-U", "keyward", "-d", "postgres",
		"-c", statement).CombinedOutput()
	if err != nil {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}

// NewDatabase makes an empty database and returns its address for a broker.
func (p *Postgres) NewDatabase(ctx context.Context) (dsn string, err error) {
	name := fmt.Sprintf("lab%d", p.next.Add(1))
	if err := p.admin(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create a database: %w", err)
	}
	return "postgres:///" + name + "?user=keyward&host=" + url.QueryEscape(p.dir), nil
}

// PID is the server's first process; all others are below it.
func (p *Postgres) PID() (pid int) {
	raw, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err == nil {
		fmt.Sscan(string(raw), &pid)
	}
	return pid
}

// Close ends the server and removes its files.
func (p *Postgres) Close() {
	p.alive.Close()
	<-p.done
}
