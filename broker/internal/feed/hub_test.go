package feed

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestHub_deliversToTheAccountAndTopicOnly(t *testing.T) {
	t.Parallel()
	var h Hub
	all := h.Subscribe("a")
	one := h.Subscribe("a", KeyRequest("r1"))
	other := h.Subscribe("b")
	defer other.Close()
	h.Publish("a", TopicKeyRequests, KeyRequest("r1"), TopicKeyRequests, Instance("i"))
	if got := all.Take(); !slices.Equal(got, []string{TopicKeyRequests}) {
		t.Errorf("a listener of everything got %v; topics of single machines and repetitions are not for it", got)
	}
	if got := one.Take(); !slices.Equal(got, []string{KeyRequest("r1")}) {
		t.Errorf("a listener of one request got %v", got)
	}
	if got := other.Take(); got != nil {
		t.Errorf("another account's listener got %v", got)
	}
	all.Close()
	all.Close()
	one.Close()
	if got := h.Accounts(); !slices.Equal(got, []string{"b"}) || h.Listeners() != 1 {
		t.Errorf("after Close: accounts %v, %d listeners", got, h.Listeners())
	}
}

func TestHub_losesNothingWhileTheListenerIsBusy(t *testing.T) {
	t.Parallel()
	var h Hub
	s := h.Subscribe("a", "x", "y")
	defer s.Close()
	for range 1000 {
		h.Publish("a", "x")
		h.Publish("a", "y")
	}
	<-s.C()
	if got := s.Take(); !slices.Equal(got, []string{"x", "y"}) {
		t.Errorf("Take = %v", got)
	}
	h.Publish("a", "y")
	<-s.C()
	if got := s.Take(); !slices.Equal(got, []string{"y"}) {
		t.Errorf("Take = %v", got)
	}
}

func TestWatch_wakesListenersOfAnotherBrokersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var head atomic.Int64
		head.Store(7)
		go h.Watch(ctx, time.Second, func(context.Context, string) (int64, error) { return head.Load(), nil })
		s := h.Subscribe("a", KeyRequest("r1"))
		defer s.Close()
		time.Sleep(3500 * time.Millisecond)
		if got := s.Take(); got != nil {
			t.Fatalf("woken by %v although nothing changed", got)
		}
		head.Store(8)
		time.Sleep(time.Second)
		if got := s.Take(); !slices.Equal(got, []string{TopicChanged}) {
			t.Fatalf("Take = %v after another broker's change", got)
		}
		cancel()
		synctest.Wait()
	})
}
