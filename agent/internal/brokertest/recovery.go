package brokertest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/client/recovery"
)

// SealTo gives the account a recovery key.
func (b *Broker) SealTo(k recovery.PublicKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sealTo = &k
}

// OfflineRecords waits until the machine has told, by signed records, of events that done accepts.
func (b *Broker) OfflineRecords(what string, done func(events []string) bool) {
	b.t.Helper()
	b.Wait("the offline record "+what, func() bool {
		var told []string
		for _, r := range b.records {
			var e api.OfflineEntry
			if json.Unmarshal(r.Payload, &e) == nil && len(r.Signature) > 0 {
				told = append(told, string(e.Event))
			}
		}
		return done(told)
	})
}

func (b *Broker) recovery(w http.ResponseWriter, r *http.Request, instance string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sealTo == nil {
		write(w, api.RecoveryEnvelope{})
		return
	}
	h := recovery.Header{Broker: BrokerName, AccountID: b.AccountID, AccountName: AccountName, Scope: "instance", InstanceID: instance, MadeAt: time.Now().UTC()}
	var keys [][]byte
	h.Revision = b.sealTo.ID[:8]
	for _, d := range b.devices {
		if d.Volume != nil {
			h.Devices = append(h.Devices, recovery.Device{ID: d.ID, Name: d.Name, Volume: *d.Volume})
			keys = append(keys, d.plain())
			h.Revision += d.ID[:8]
		}
	}
	out := api.RecoveryEnvelope{Revision: h.Revision}
	if h.Revision != r.URL.Query().Get("revision") {
		var err error
		if out.Envelope, err = recovery.Seal(*b.sealTo, h, keys); err != nil {
			panic(err)
		}
	}
	for _, k := range keys {
		clear(k)
	}
	write(w, out)
}

func (b *Broker) offlineRecords(w http.ResponseWriter, r *http.Request, _ string) {
	in, ok := read[api.OfflineRecords](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range in.Records { // one that was told before is told again where the answer was lost
		if !slices.ContainsFunc(b.records, func(o api.OfflineRecord) bool { return bytes.Equal(o.Payload, r.Payload) }) {
			b.records = append(b.records, r)
		}
	}
	b.changed()
	w.WriteHeader(http.StatusNoContent)
}
