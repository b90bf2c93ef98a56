package cli

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what the scripts need beside testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits":    exits,
	"ports":    ports,
	"envsubst": envsubst,
	"field":    field,
	"envfile":  envfile,
	"flip":     flip,
	"mode":     mode,
	"fetch":    fetch,
	"residue":  residue,
}

// exits CODE ARG...: keyward-broker ends with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("keyward-broker", args[1:]...)
	got := 0
	if e, ok := err.(*exec.ExitError); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// field FILE PATH VAR: sets VAR to a member of a JSON file, by names with dots.
func field(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for _, name := range strings.Split(args[1], ".") {
		m, ok := v.(map[string]any)
		if !ok || m[name] == nil {
			ts.Fatalf("%s has no %s", args[0], args[1])
		}
		v = m[name]
	}
	ts.Setenv(args[2], fmt.Sprint(v))
}

// envfile FILE VAR: sets VAR to the text of a file.
func envfile(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[1], strings.TrimSpace(ts.ReadFile(args[0])))
}

// ports VAR...: sets each variable to a port of this machine that is free now.
func ports(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer ln.Close() // together, so that they differ
		_, port, err := net.SplitHostPort(ln.Addr().String())
		ts.Check(err)
		ts.Setenv(name, port)
	}
}

// envsubst FILE: replaces $VAR in the file.
func envsubst(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// flip FILE TEXT: changes one bit of the file's first TEXT.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	i := bytes.Index(b, []byte(args[1]))
	if i < 0 {
		ts.Fatalf("%s holds no %q", args[0], args[1])
	}
	b[i] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// mode MODE FILE...: the files have the mode.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// fetch URL CAFILE: waits until the URL answers 200 over TLS that the CA vouches for (any, when CAFILE is "-").
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	roots := x509.NewCertPool()
	if args[1] != "-" {
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[1])))
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		res, err := client.Get(args[0])
		if err != nil {
			last = err
			continue
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode == 200 {
			_, err := ts.Stdout().Write(body)
			ts.Check(err)
			return
		}
		last = fmt.Errorf("%s: %s", res.Status, body)
	}
	ts.Fatalf("%s: %v", args[0], last)
}

// residue DIR TEXT: no file below the folder holds the text.
func residue(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(args[1])) {
			return fmt.Errorf("%s holds the text", path)
		}
		return err
	}))
}
