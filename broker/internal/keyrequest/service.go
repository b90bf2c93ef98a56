// Package keyrequest carries key requests through their life: asked for by machines, judged by policies, decided by
// people, delivered once, renewed by heartbeats and taken back. The state of a request changes only through Apply (the
// table of machine_table.go); state, history, audit record and what follows for the device are committed together.
package keyrequest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/attest"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	// LeaseMargin is how much longer than the lease the broker waits before a key counts as gone: the longest time for
	// which a client believes in an answer (docs/agent-protocol.md, section 6).
	LeaseMargin = 10 * time.Second
	// approvedLife is how long an approved key waits to be collected.
	approvedLife = time.Hour
	// pendingLife is how long a request waits for a person where its policy does not say.
	pendingLife = 7 * 24 * time.Hour
	// revokeAlarm is how long a revocation may go unconfirmed before people are told, each time.
	revokeAlarm = 5 * time.Minute
)

// Jobs are the commands of other services for a machine.
type Jobs interface {
	// Commands lists what an instance is asked to do; it only reads.
	Commands(t *store.Tenant, instanceID string) ([]api.Command, error)
	// CommandReads is what Commands reads in any case.
	CommandReads(instanceID string) []store.Read
}

// Deps is what the service works with.
type Deps struct {
	Store  *store.Store
	Feed   *feed.Hub
	Root   keystore.Root
	Jobs   Jobs
	Logger *slog.Logger
	// Challenges gives nonces; nil means that this broker shares none with another service or broker.
	Challenges *challenge.Issuer
	// Clouds verifies the documents of cloud instances; its zero value knows no cloud.
	Clouds attest.Clouds
	// Managers say what they know of a machine; nil knows nothing.
	Managers Managers
	// Waiting tells of what else waits for people; nil tells of nothing.
	Waiting Waiting
	// Observer counts what happened for metrics; nil counts nothing.
	Observer Observer
}

// Waiting is what waits for people beside key requests.
type Waiting interface {
	// Notices are those that the caller may see; they end by themselves.
	Notices(t *store.Tenant, p tenant.Principal) ([]api.Notice, error)
}

// Managers are systems other than the machine that know its state.
type Managers interface {
	// Confirmed is what they say of a machine that calls from address, and the facts on which rules are not used now, with the
	// reason. It answers at once. The evidence holds what the broker has verified so far.
	Confirmed(inst store.Instance, e api.Evidence, address string) (facts []api.Fact, unused map[api.FactName]string)
}

// Observer is told of every change of a request's state, after it is durable.
type Observer interface {
	KeyRequestMoved(to api.KeyStatus)
}

// Service handles key requests.
type Service struct {
	Deps
	polls feed.Quota
	mu    sync.Mutex
	// told remembers the last command list of each instance, so that an unchanged one is held back.
	told map[string]toldList
	// began is when this broker started: while it was down it heard from nobody, and that is no machine's silence.
	began time.Time
}

// New makes the service.
func New(d Deps) *Service {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.Challenges == nil {
		d.Challenges = challenge.New(nil)
	}
	s := &Service{Deps: d, polls: feed.Quota{PerOwner: machinePolls}, told: map[string]toldList{}}
	if err := d.Store.View(context.Background(), func(tx *store.Tx) error { s.began = tx.Now(); return nil }); err != nil {
		d.Logger.Warn("machines may be shown as missing until they report", "error", err)
	}
	return s
}

// change is one event on one request.
type change struct {
	event  Event
	ctx    Ctx
	reason string
	detail map[string]string
}

// move applies a change to r, stores it, and leaves history and audit record. With an ID that is empty r is new.
func (s *Service) move(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, c change) (Result, error) {
	from := r.Status
	res, err := Apply(State{Status: r.Status, Integrity: r.Integrity}, c.event, c.ctx)
	if err != nil {
		return res, conflict(err)
	}
	r.Status, r.Integrity = res.Next.Status, res.Next.Integrity
	if c.reason != "" {
		r.Reason = c.reason
	}
	if err := s.carryOut(t, p, r, c, res.Effects); err != nil {
		return res, err
	}
	if err := settle(t, r, from, c); err != nil {
		return res, err
	}
	requests := store.In[store.KeyRequest](t)
	if r.ID == "" {
		if err = requests.InsertLater(r); err == nil {
			store.Replace(t.Tx(), versionKey{r.ID}, int64(0))
		}
	} else {
		err = requests.UpdateLater(r)
	}
	if err != nil {
		return res, err
	}
	if from == r.Status && len(res.Effects) == 0 {
		return res, nil
	}
	if err := note(t, p, r, from, c); err != nil {
		return res, err
	}
	for _, e := range res.Effects {
		var err error
		switch e.Kind {
		case "audit":
			err = audit.Append(t, s.record(p, r, e.Name, c))
		case "notify":
			err = s.tell(t, r, e.Name)
		}
		if err != nil {
			return res, err
		}
	}
	s.announce(t, r, from)
	return res, nil
}

// note adds a line to the request's history.
func note(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, from api.KeyStatus, c change) error {
	return addEvent(t, store.KeyRequestEvent{RequestID: r.ID, FromStatus: from, ToStatus: r.Status, Event: string(c.event), Actor: p.Actor(), Reason: c.reason})
}

func (s *Service) record(p tenant.Principal, r *store.KeyRequest, event string, c change) audit.Entry {
	detail := map[string]string{"number": fmt.Sprint(r.Number), "device": r.DeviceID, "instance": r.InstanceID, "policy": r.PolicyID,
		"status": string(r.Status), "integrity": string(r.Integrity)}
	if c.reason != "" {
		detail["reason"] = c.reason
	}
	for k, v := range c.detail {
		detail[k] = v
	}
	return audit.Entry{Category: "key", Event: event, Actor: p.Actor(), Subject: r.ID, Detail: detail}
}

// announce wakes who waits for the request, once it is durable.
func (s *Service) announce(t *store.Tenant, r *store.KeyRequest, from api.KeyStatus) {
	account, id, instance, to := t.AccountID(), r.ID, r.InstanceID, r.Status
	t.AfterCommit(func() {
		if s.Observer != nil && from != to {
			s.Observer.KeyRequestMoved(to)
		}
		s.Feed.Publish(account, feed.TopicKeyRequests, feed.TopicDevices, feed.KeyRequest(id), feed.Instance(instance))
	})
}

// carryOut does what belongs to a change, on r and its device. Seal-key is the delivery's own work.
func (s *Service) carryOut(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, c change, list []Effect) error {
	now := t.Now()
	for _, e := range list {
		switch e.Kind {
		case EffectStartLease:
			pol, err := policyOf(t, r.PolicyID)
			if err != nil {
				return err
			}
			end := now.Add(seconds(pol.LeaseSeconds))
			r.DeliveredAt, r.LeaseExpiresAt, r.RevokeMode = &now, &end, pol.RevokeMode
		case EffectEndLease:
			r.LeaseExpiresAt = nil
		case EffectSendRevoke:
			pol, err := policyOf(t, r.PolicyID)
			if err != nil {
				return err
			}
			// From now on this is when the broker looks whether the agent has confirmed.
			due := now.Add(revokeAlarm)
			r.RevokeMode, r.RevokeDueAt = pol.RevokeMode, &due
		case EffectArmTimer:
			at := r.CreatedAt
			if at.IsZero() {
				at = now
			}
			at = at.Add(seconds(c.ctx.Verdict.ApproveAfterSeconds))
			r.ApproveAt = &at
		case EffectDisarmTimer:
			r.ApproveAt = nil
		case EffectArmRevoke:
			pol, err := policyOf(t, r.PolicyID)
			if err != nil {
				return err
			}
			due := now.Add(seconds(pol.PostponeSeconds))
			r.RevokeDueAt = &due
		case EffectDisarmRevoke:
			r.RevokeDueAt = nil
		case EffectMarkMounted:
			r.Mounted = true
			if err := s.inUse(t, p, r); err != nil {
				return err
			}
		case EffectMarkUnmounted:
			r.Mounted = false
			if err := s.outOfUse(t, p, r); err != nil {
				return err
			}
		case EffectClose:
			r.EndedAt, r.RevokeDueAt = &now, nil
		case EffectReopen:
			r.EndedAt = nil
		}
	}
	if r.Status == api.KeyRevoked {
		r.RevokeDueAt = nil
	}
	if r.Status != api.KeyPending {
		r.WaitsFor = ""
	}
	return nil
}

// inUse shows on the device, or on the RAID set, that its volume is mounted.
func (s *Service) inUse(t *store.Tenant, p tenant.Principal, r *store.KeyRequest) error {
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil || d.Status == api.DeviceInUse {
		return err
	}
	u, err := inventory.UnitOf(t, d)
	if err != nil {
		return err
	}
	_, err = u.Move(t, p, inventory.Mounted, inventory.Ctx{}, "")
	return err
}

// outOfUse shows that it is not, unless another machine has it mounted too (read-only volumes may be shared).
func (s *Service) outOfUse(t *store.Tenant, p tenant.Principal, r *store.KeyRequest) error {
	others, err := store.In[store.KeyRequest](t).Count(store.Eq("device_id", r.DeviceID), store.Eq("mounted", true), store.Ne("id", r.ID))
	if err != nil || others > 0 {
		return err
	}
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil || d.Status != api.DeviceInUse {
		return err
	}
	u, err := inventory.UnitOf(t, d)
	if err != nil {
		return err
	}
	_, err = u.Move(t, p, inventory.Unmounted, inventory.Ctx{LastMount: true}, "")
	return err
}

// policyOf is the policy that judged a request. A policy can only be deleted once its devices have moved on; then its
// requests follow the default policy.
func policyOf(t *store.Tenant, id string) (store.Policy, error) {
	pol, err := store.In[store.Policy](t).Steady(id)
	if errors.Is(err, store.ErrNotFound) {
		return store.In[store.Policy](t).First(store.Eq("is_default", true))
	}
	return pol, err
}

// conflict turns a refusal of the machine into a problem.
func conflict(err error) error {
	var r *Refused
	if errors.As(err, &r) {
		return problem.Conflict(r.Error()+".", "Look at the request's state and history; nothing was changed.")
	}
	return err
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// request reads one request of the account.
func request(t *store.Tenant, id string) (store.KeyRequest, error) {
	r, err := store.In[store.KeyRequest](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return r, problem.NotFound("key request")
	}
	return r, err
}

// own reads one request of the calling machine; another machine's is not there.
func own(t *store.Tenant, p tenant.Principal, id string) (store.KeyRequest, error) {
	r, err := request(t, id)
	if err == nil && r.InstanceID != p.Instance {
		return store.KeyRequest{}, problem.NotFound("key request")
	}
	return r, err
}

// How soon a waiting call looks again without being told to: when it holds something back that is to be repeated, and
// when there is nothing. What changes is published, by other brokers too (feed.Hub.Watch), so this only bounds how long
// something that was missed goes unnoticed; thousands of machines wait at any time.
const (
	lookSoon  = 2 * time.Second
	lookAgain = 15 * time.Second
)

// waitFor calls look until it says that it is done, ctx ends or wait is over; between calls it waits for the topics.
// holding says whether look holds something back; nil means never.
func (s *Service) waitFor(ctx context.Context, p tenant.Principal, wait time.Duration, topics []string, holding func() bool, look func() (bool, error)) error {
	if wait <= 0 {
		_, err := look()
		return err
	}
	release, ok := s.polls.Take(p.AccountID, p.Instance)
	if !ok {
		return problem.TooMany(time.Second)
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, min(wait, MaxWait))
	defer cancel()
	sub := s.Feed.Subscribe(p.AccountID, topics...)
	defer sub.Close()
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	for {
		done, err := look()
		if err != nil || done {
			return err
		}
		if holding != nil && holding() {
			again.Reset(lookSoon)
		} else {
			again.Reset(lookAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-sub.C():
			sub.Take()
		case <-again.C:
		}
	}
}

const (
	// MaxWait is the longest that a long poll is held.
	MaxWait = time.Minute
	// machinePolls is how many long polls of one machine are held: one for commands, one a waiting request. A caller that
	// goes away is not noticed before its poll ends, so without a bound one machine could hold every connection.
	machinePolls = 256
)
