package keyrequest

import (
	"errors"
	"testing"
	"time"

	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// A machine that opens polls and goes away must not hold every connection of the broker.
func TestWaitFor_boundsThePollsOfOneMachine(t *testing.T) {
	t.Parallel()
	s := &Service{Deps: Deps{Feed: &feed.Hub{}}, polls: feed.Quota{PerOwner: 1}}
	one, two := tenant.Principal{AccountID: "a", Instance: "1"}, tenant.Principal{AccountID: "a", Instance: "2"}
	looking, ended, done := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.waitFor(t.Context(), one, time.Minute, nil, nil, func() (bool, error) {
			looking <- struct{}{}
			<-ended
			return true, nil
		})
	}()
	<-looking
	at := func(p tenant.Principal, wait time.Duration) error {
		return s.waitFor(t.Context(), p, wait, nil, nil, func() (bool, error) { return true, nil })
	}
	var p *problem.Problem
	if err := at(one, time.Minute); !errors.As(err, &p) || p.Status != 429 || p.RetryAfter == 0 {
		t.Errorf("a second poll: %v, want 429 with a time", err)
	}
	if err := errors.Join(at(one, 0), at(two, time.Minute)); err != nil {
		t.Errorf("a call that does not wait, and another machine's: %v", err)
	}
	close(ended)
	if err := <-done; err != nil {
		t.Errorf("the first poll: %v", err)
	}
	if err := at(one, time.Minute); err != nil {
		t.Errorf("after the first poll: %v", err)
	}
	if s.Feed.Listeners() != 0 {
		t.Error("a poll left its subscription open")
	}
}
