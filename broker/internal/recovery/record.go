package recovery

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// What a record may be.
const (
	maxPayload = 64 << 10
	maxWord    = 1024 // characters
	maxDetails = 32
	maxDevices = 64
)

// events are what may have been done without the broker.
var events = map[api.OfflineEvent]bool{api.OfflineExportedOpened: true, api.OfflineBreakGlassOpened: true, api.OfflineBreakGlassCheck: true,
	api.OfflineKeyWritten: true, api.OfflineClosed: true}

// lives are the events of a machine's own life, and what the audit log calls them.
var lives = map[api.OfflineEvent]string{api.MachineBooted: "machine.booted", api.MachineStopping: "machine.stopping",
	api.AgentStarted: "agent.started", api.AgentStopped: "agent.stopped"}

// Take lets records of what a machine did without the broker join the audit log. key is the machine's, from the
// certificate of this call. A record that is there already is passed over; one whose predecessor is missing says so.
func (s *Service) Take(ctx context.Context, p tenant.Principal, key *ecdsa.PublicKey, in api.OfflineRecords) error {
	entries := make([]api.OfflineEntry, len(in.Records))
	for i, r := range in.Records {
		e, why := read(p, key, r)
		if why != "" {
			s.Logger.Warn("an offline record was refused", "account", p.AccountID, "instance", p.Instance, "record", i, "reason", why)
			return problem.Invalid(fmt.Sprintf("records[%d]", i), why)
		}
		entries[i] = e
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		for i, e := range entries {
			if err := s.join(t, p, in.Records[i], e); err != nil {
				return err
			}
		}
		return nil
	})
}

// read proves one record, or says why it cannot be taken.
func read(p tenant.Principal, key *ecdsa.PublicKey, r api.OfflineRecord) (e api.OfflineEntry, why string) {
	if len(r.Payload) > maxPayload {
		return e, "is too long"
	}
	digest := sha256.Sum256(append([]byte(api.OfflineRecordContext), r.Payload...))
	if key == nil || !ecdsa.VerifyASN1(key, digest[:], r.Signature) {
		return e, "is not signed by this machine"
	}
	if err := json.Unmarshal(r.Payload, &e); err != nil {
		return e, "cannot be read"
	}
	id, err := uuid.Parse(e.ID)
	switch {
	case err != nil || id.String() != e.ID || e.Sequence < 1:
		return e, "has no ID or sequence"
	case e.AccountID != p.AccountID || e.Instance != p.Instance:
		return e, "is of another machine or account"
	case !events[e.Event] && lives[e.Event] == "":
		return e, "tells of an event that is not known"
	case len(e.Devices) > maxDevices || len(e.Detail) > maxDetails:
		return e, "tells too much"
	}
	return e, ""
}

func (s *Service) join(t *store.Tenant, p tenant.Principal, r api.OfflineRecord, e api.OfflineEntry) error {
	table := store.In[store.OfflineRecord](t)
	if n, err := table.Count(store.Eq("instance_id", p.Instance), store.Eq("record_id", e.ID)); err != nil || n > 0 {
		return err
	}
	hash := sha256.Sum256(r.Payload)
	gap, err := missed(t, p, e)
	if err != nil {
		return err
	}
	if err := table.Insert(&store.OfflineRecord{InstanceID: p.Instance, RecordID: e.ID, Sequence: e.Sequence, Event: string(e.Event), At: e.At,
		Payload: r.Payload, Hash: hash[:], Signature: r.Signature}); err != nil {
		return fmt.Errorf("keeping an offline record: %w", err)
	}
	detail := map[string]string{"machine_time": e.At.UTC().Format(time.RFC3339), "sequence": fmt.Sprint(e.Sequence), "record": hex.EncodeToString(hash[:]),
		"devices": word(strings.Join(e.Devices, ", "))}
	told := maps.Clone(e.Detail)
	for name, v := range told {
		detail["machine_"+word(name)] = word(v)
	}
	if gap != "" {
		detail["gap"] = gap
	}
	if name := lives[e.Event]; name != "" {
		delete(detail, "devices")
		return audit.Append(t, audit.Entry{Category: audit.Agent, Event: name, Actor: p.Actor(), Subject: p.Instance, Detail: detail})
	}
	return audit.Append(t, audit.Entry{Category: audit.Key, Event: "offline." + string(e.Event), Actor: p.Actor(), Subject: subject(e), Detail: detail})
}

// missed says in words where the machine's log does not continue what the broker has.
func missed(t *store.Tenant, p tenant.Principal, e api.OfflineEntry) (string, error) {
	if e.Sequence == 1 {
		return "", nil
	}
	former, err := store.In[store.OfflineRecord](t).First(store.Eq("instance_id", p.Instance), store.Eq("sequence", e.Sequence-1))
	if errors.Is(err, store.ErrNotFound) {
		return "the record before this one is missing", nil
	}
	if err == nil && hex.EncodeToString(former.Hash) != e.Previous {
		return "the record before this one is another than the machine says", nil
	}
	return "", err
}

func subject(e api.OfflineEntry) string {
	if len(e.Devices) == 0 {
		return ""
	}
	return word(e.Devices[0])
}

// word makes a machine's text fit to be shown.
func word(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); len(r) > maxWord {
		return string(r[:maxWord])
	}
	return text
}
