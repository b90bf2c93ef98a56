package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx" for creating databases

	"keyward/broker/internal/store"
)

// cluster is one PostgreSQL server that lives as long as this process.
type cluster struct {
	dir string
	db  *sql.DB
	// alive is held so that it is not collected, which would close it and stop the server.
	alive io.Closer
	next  atomic.Int64
	// mu: a template database may have no other connection while it is copied.
	mu sync.Mutex
}

// theCluster starts the server on first use; nil without an error means that PostgreSQL is not installed.
var theCluster = sync.OnceValues(func() (*cluster, error) {
	bin := findBinaries()
	if bin == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "kwpg")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if err := c.start(bin); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return c, nil
})

func findBinaries() string {
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	sort.Strings(found)
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// supervisor runs the server and ends it, and its files, when standard input closes: when this process ends, however it
// ends. No test has to remember a clean-up.
const supervisor = `
"$1/initdb" -D "$2/data" -U keyward -A trust -E UTF8 --locale=C --no-sync >"$2/initdb.log" 2>&1 || { touch "$2/failed"; cat >/dev/null; rm -rf "$2"; exit 1; }
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=200 -c shared_buffers=32MB -c fsync=off \
  -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off -c max_wal_senders=0 -c wal_level=minimal >"$2/server.log" 2>&1 <&- &
server=$!
cat >/dev/null
n=0 # early in its start the server ignores the signal, so it is repeated
while [ -e "$2/data/postmaster.pid" ] && [ $n -lt 200 ]; do kill -QUIT $server; sleep 0.05; n=$((n+1)); done
kill -KILL $server
wait $server
rm -rf "$2"
`

func (c *cluster) start(bin string) error {
	cmd := exec.Command("/bin/sh", "-c", supervisor, "sh", bin, c.dir)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(c.dir, uid, gid); err != nil {
			return err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	// The write end stays open, and unreachable for others, until this process is gone.
	var err error
	if c.alive, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if c.db, err = sql.Open("pgx", c.dsn("postgres")); err != nil {
		return err
	}
	c.db.SetMaxOpenConns(4)
	if err := c.awaitServer(); err != nil {
		return err
	}
	if err := c.admin("CREATE DATABASE template_keyward"); err != nil {
		return err
	}
	s, err := store.Open(context.Background(), store.Options{DSN: c.dsn("template_keyward")})
	if err != nil {
		return err
	}
	return s.Close()
}

func (c *cluster) awaitServer() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := c.db.PingContext(ctx)
		if err == nil {
			return nil
		}
		if _, failed := os.Stat(filepath.Join(c.dir, "failed")); failed == nil {
			log, _ := os.ReadFile(filepath.Join(c.dir, "initdb.log"))
			return errors.New(string(log))
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(c.dir, "server.log"))
			return fmt.Errorf("%w: %s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *cluster) dsn(database string) string {
	return "postgres:///" + database + "?user=keyward&host=" + url.QueryEscape(c.dir)
}

func (c *cluster) create(template string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := fmt.Sprintf("test%d", c.next.Add(1))
	return name, c.admin("CREATE DATABASE " + name + " TEMPLATE " + template)
}

func (c *cluster) admin(statement string) error {
	_, err := c.db.Exec(statement)
	return err
}
