package facts

import (
	"context"
	"sync"
	"time"

	"keyward/broker/api"
)

// Memory keeps the facts that are costly to collect, so that a heartbeat neither waits for a script nor hashes files
// again. A heartbeat takes what is remembered, with the time at which it was collected, and what is older than the
// refresh time is collected anew behind it.
type Memory struct {
	ctx     context.Context
	refresh time.Duration

	mu      sync.Mutex
	facts   map[string]result
	running map[string]bool
	digests map[string]digested
	work    sync.WaitGroup
}

// result is what a group found, and when.
type result struct {
	facts []api.Fact
	at    time.Time
}

// NewMemory makes a memory whose work in the background ends with ctx.
func NewMemory(ctx context.Context, refresh time.Duration) *Memory {
	return &Memory{ctx: ctx, refresh: refresh, facts: map[string]result{}, running: map[string]bool{}, digests: map[string]digested{}}
}

// Wait returns when nothing is being collected in the background.
func (m *Memory) Wait() { m.work.Wait() }

// remembered returns a group's facts: collected now, or from the memory.
func (s Sources) remembered(ctx context.Context, g group) []api.Fact {
	m := s.Memory
	if m == nil || g.name == "" {
		return g.collect(ctx, s)
	}
	now := s.Clock()
	m.mu.Lock()
	old, known := m.facts[g.name]
	stale := known && now.Sub(old.at) >= m.refresh
	if known && !s.Fresh {
		if stale && !m.running[g.name] {
			m.running[g.name] = true
			m.work.Go(func() { m.collect(m.ctx, s, g) })
		}
		m.mu.Unlock()
		return old.facts
	}
	m.mu.Unlock()
	return m.collect(ctx, s, g)
}

func (m *Memory) collect(ctx context.Context, s Sources, g group) []api.Fact {
	at := s.Clock()
	facts := g.collect(ctx, s)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, g.name)
	// What a dying context cut short says nothing about the machine, and what is newer stays.
	if old := m.facts[g.name]; ctx.Err() == nil && !at.Before(old.at) {
		m.facts[g.name] = result{facts, at}
	}
	return facts
}
