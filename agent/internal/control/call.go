package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// ErrNotRunning is returned by Call when nobody answers on the socket.
var ErrNotRunning = errors.New("no agent is running here")

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// Call asks the agent that listens at path. An answer with an error is returned as that error.
func Call(ctx context.Context, path string, r Request) (Answer, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return Answer{}, fmt.Errorf("%w (%w); start it with: keyward-agent run", ErrNotRunning, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return Answer{}, fmt.Errorf("ask the agent: %w", err)
	}
	var a Answer
	if err := json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&a); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Answer{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
