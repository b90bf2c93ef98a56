package facts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
)

var clamAV = product{
	name: api.ProductClamAV,
	installed: func(s Sources) bool {
		return s.Configured.ClamdSocket != "" || s.anyFile("usr/sbin/clamd", "usr/bin/clamscan")
	},
	examine: askClamd,
}

// clamdSockets are where Debian and Fedora put it. None is in a folder where any user may put a socket.
var clamdSockets = []string{"run/clamav/clamd.ctl", "run/clamd.scan/clamd.sock", "run/clamav/clamd.sock"}

const clamdTime = 5 * time.Second

// askClamd asks the running daemon, because only what it has loaded protects (clamd(8), command VERSION).
func askClamd(ctx context.Context, s Sources) report {
	r := report{scanner: true, source: "clamd VERSION", realTime: off}
	if s.process("clamonacc") {
		r.realTime = on
	}
	sockets := clamdSockets
	if s.Configured.ClamdSocket != "" {
		sockets = []string{s.Configured.ClamdSocket}
	}
	for _, socket := range sockets {
		reply, err := clamdVersion(ctx, s.path(socket))
		if err != nil {
			r.err = errors.Join(r.err, err)
			continue
		}
		r.err, r.state = nil, running
		if err := r.readClamd(reply); err != nil {
			r.err, r.state = err, impaired
		}
		return r
	}
	r.err = fmt.Errorf("clamd does not answer: %w", firstOf(r.err))
	r.realTime = off // clamonacc scans by clamd
	return r
}

// firstOf is the error of the place where clamd is most likely to be.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return firstOf(joined.Unwrap()[0])
	}
	return err
}

func clamdVersion(ctx context.Context, socket string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, clamdTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("zVERSION\x00")); err != nil {
		return "", err
	}
	reply, err := bufio.NewReader(io.LimitReader(conn, 1024)).ReadString(0)
	if err != nil {
		return "", fmt.Errorf("read clamd's answer: %w", err)
	}
	return strings.TrimSuffix(reply, "\x00"), nil
}

// readClamd reads "ClamAV 1.4.6/27400/Mon Sep  8 08:30:12 2025", of which the part from the first slash is absent while no
// official database is loaded. The time is that of clamd's own zone.
func (r *report) readClamd(reply string) error {
	text, ok := strings.CutPrefix(strings.TrimSpace(reply), "ClamAV ")
	engine, patterns, official := strings.Cut(text, "/")
	if !ok || engine == "" || !isPlainVersion(engine) {
		return fmt.Errorf("clamd answered %.80q, which is no version", reply)
	}
	r.version, r.engine = engine, engine
	if !official {
		return nil
	}
	number, made, _ := strings.Cut(patterns, "/")
	if _, err := strconv.ParseUint(number, 10, 32); err != nil {
		return fmt.Errorf("clamd answered %.80q, which names no pattern version", reply)
	}
	at, err := time.ParseInLocation(time.ANSIC, strings.TrimSpace(made), time.Local)
	if err != nil {
		return fmt.Errorf("clamd answered %.80q, which names no pattern time", reply)
	}
	r.pattern, r.patternDate = number, at
	return nil
}

// isPlainVersion accepts what versions look like, so that no product's odd answer becomes a fact.
func isPlainVersion(s string) bool {
	return s != "" && len(s) <= 64 && s[0] >= '0' && s[0] <= '9' && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".-_+~", r))
	})
}
