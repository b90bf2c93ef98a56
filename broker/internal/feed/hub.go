// Package feed tells those who wait that something of an account has changed: long polls of agents, live rows of the
// console. It carries topics and never data, so a listener reads again with its own rights and nothing leaks.
package feed

import (
	"slices"
	"strings"
	"sync"
)

// The topics. Those with a colon end in an ID.
const (
	TopicKeyRequests = "key-requests"
	TopicDevices     = "devices"
	TopicInstances   = "instances"
	TopicImages      = "images"
	TopicPolicies    = "policies"
	TopicExports     = "exports"
	// TopicChanged says that another broker on the same database changed something; it stands for every topic.
	TopicChanged = "changed"
)

// Instance is the topic of work for one machine.
func Instance(id string) string { return "instance:" + id }

// KeyRequest is the topic of one key request.
func KeyRequest(id string) string { return "key-request:" + id }

// Hub passes topics from committed changes to subscriptions. The zero value is ready; it is safe for concurrent use.
type Hub struct {
	mu       sync.Mutex
	accounts map[string]map[*Subscription]struct{}
}

// Subscription is one listener. Topics that arrive while it is busy are kept, each once, so none is ever lost and a slow
// listener costs a bounded amount.
type Subscription struct {
	hub     *Hub
	account string
	topics  []string
	wake    chan struct{}
	pending []string
}

// Publish wakes the account's listeners of any of the topics. Call it after the commit, never before.
func (h *Hub) Publish(accountID string, topics ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.accounts[accountID] {
		for _, t := range topics {
			s.add(t)
		}
	}
}

// Subscribe listens to topics of one account; without topics, to all that do not concern a single machine or request.
func (h *Hub) Subscribe(accountID string, topics ...string) *Subscription {
	s := &Subscription{hub: h, account: accountID, topics: topics, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.accounts == nil {
		h.accounts = make(map[string]map[*Subscription]struct{})
	}
	if h.accounts[accountID] == nil {
		h.accounts[accountID] = make(map[*Subscription]struct{})
	}
	h.accounts[accountID][s] = struct{}{}
	return s
}

// Accounts lists the accounts that somebody listens to.
func (h *Hub) Accounts() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]string, 0, len(h.accounts))
	for id := range h.accounts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Listeners counts the subscriptions of all accounts.
func (h *Hub) Listeners() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, subs := range h.accounts {
		n += len(subs)
	}
	return n
}

// C receives when Take has something to return.
func (s *Subscription) C() <-chan struct{} { return s.wake }

// Take returns the topics that arrived since the last call, oldest first, each once.
func (s *Subscription) Take() []string {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	topics := s.pending
	s.pending = nil
	return topics
}

// Close ends the subscription; it may be called twice.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.accounts[s.account], s)
	if len(s.hub.accounts[s.account]) == 0 {
		delete(s.hub.accounts, s.account)
	}
}

func (s *Subscription) add(topic string) {
	if !s.wants(topic) || slices.Contains(s.pending, topic) {
		return
	}
	s.pending = append(s.pending, topic)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Subscription) wants(topic string) bool {
	if topic == TopicChanged {
		return true
	}
	if len(s.topics) == 0 {
		return !strings.Contains(topic, ":")
	}
	return slices.Contains(s.topics, topic)
}
