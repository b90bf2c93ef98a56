package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine     = 64 << 10
	lineTimeout = 5 * time.Second
	maxClients  = 16
)

// ErrRunning is returned by Listen while another agent answers on the socket.
var ErrRunning = errors.New("another agent is running on this machine")

// Handler answers requests. It may take as long as the request needs.
type Handler interface {
	Control(ctx context.Context, r Request) Answer
}

// Server owns the socket.
type Server struct {
	listener *net.UnixListener
	lock     *os.File
	handler  Handler
	logger   *slog.Logger
	clients  sync.WaitGroup
	slots    chan struct{}
}

// Listen takes the socket at path, makes its folder as 0700 and replaces a socket that a killed agent left behind. The
// lock beside it makes sure that there is one agent per runtime folder.
func Listen(path string, logger *slog.Logger) (*Server, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close the runtime folder to others: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the agent's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w; stop it first, or give this one another runtime_dir", lock.Name(), ErrRunning)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("remove the former control socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		lock.Close()
		return nil, fmt.Errorf("close the control socket to others: %w", err)
	}
	return &Server{listener: listener, lock: lock, logger: logger, slots: make(chan struct{}, maxClients)}, nil
}

// Serve answers until Close.
func (s *Server) Serve(ctx context.Context, h Handler) {
	s.handler = h
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		select {
		case s.slots <- struct{}{}:
			s.clients.Go(func() {
				defer func() { <-s.slots }()
				s.serve(ctx, conn)
			})
		default:
			conn.Close()
		}
	}
}

// Close ends Serve, waits for answers in progress and removes the socket.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.clients.Wait()
	return errors.Join(err, s.lock.Close())
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	answer := Answer{}
	if err := allowed(conn); err != nil {
		answer.Error = err.Error()
	} else if request, err := readRequest(conn); err != nil {
		answer.Error = err.Error()
	} else {
		answer = s.handler.Control(ctx, request)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(lineTimeout))
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		s.logger.Debug("control client went away", "error", err)
	}
}

func readRequest(conn net.Conn) (Request, error) {
	_ = conn.SetReadDeadline(time.Now().Add(lineTimeout))
	line, err := bufio.NewReader(io.LimitReader(conn, maxLine)).ReadBytes('\n')
	if err != nil {
		return Request{}, fmt.Errorf("read the request: %w; send one line of JSON of at most %d bytes", err, maxLine)
	}
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("read the request: %w", err)
	}
	return r, nil
}

// allowed checks the caller's user beside the socket's mode, because a mode can be changed by accident.
func allowed(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask who calls: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return fmt.Errorf("ask who calls: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("ask who calls: %w", credErr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return errors.New("only root may control the agent")
	}
	return nil
}
