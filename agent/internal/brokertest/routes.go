package brokertest

import (
	"bytes"
	"crypto/hpke"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

func (b *Broker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathEnrol, b.enrol)
	for path, handler := range map[string]func(http.ResponseWriter, *http.Request, string){
		"POST " + api.PathNonce: b.nonce, "PUT " + api.PathInventory: b.inventory, "GET " + api.PathAgentDevices: b.list,
		"GET " + api.PathCommands: b.commands, "POST " + api.PathHeartbeat: b.heartbeat, "POST " + api.PathKeyRequests: b.ask,
		"GET " + api.PathKeyRequest: b.status, "POST " + api.PathDelivery: b.deliver, "POST " + api.PathRequestEvents: b.event,
		"GET " + api.PathRecovery: b.recovery, "POST " + api.PathOfflineRecords: b.offlineRecords, "POST " + api.PathJobKey: b.jobKey, "POST " + api.PathJobProgress: b.jobProgress,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.Organization[0] != b.AccountID {
				problem(w, http.StatusUnauthorized, "no client certificate")
				return
			}
			handler(w, r, r.TLS.PeerCertificates[0].Subject.CommonName)
		})
	}
	return mux
}

func problem(w http.ResponseWriter, status int, title string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(client.Problem{Status: status, Title: title, Hint: "this is a test"})
}

func read[T any](w http.ResponseWriter, r *http.Request) (out T, ok bool) {
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return out, false
	}
	return out, true
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (b *Broker) enrol(w http.ResponseWriter, r *http.Request) {
	in, ok := read[api.EnrolRequest](w, r)
	if !ok {
		return
	}
	if subtle.ConstantTimeCompare([]byte(in.Token), []byte("tok."+b.secret)) != 1 || in.AccountID != b.AccountID {
		problem(w, http.StatusForbidden, "enrolment refused")
		return
	}
	block, _ := pem.Decode([]byte(in.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		problem(w, http.StatusBadRequest, "certificate request")
		return
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(in.Instance.Identity)).String()
	der := b.sign(&x509.Certificate{Subject: pkix.Name{CommonName: id, Organization: []string{b.AccountID}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, csr.PublicKey)
	write(w, api.EnrolResponse{InstanceID: id, AccountID: b.AccountID, AccountName: AccountName, Certificate: pemOf(der), CA: pemOf(b.ca.Raw),
		Broker: BrokerName})
}

func (b *Broker) nonce(w http.ResponseWriter, _ *http.Request, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := uuid.NewString()
	b.nonces[n] = true
	b.given++
	write(w, api.NonceResponse{Nonce: n, ExpireSeconds: 300, Time: time.Now().UTC()})
}

func (b *Broker) inventory(w http.ResponseWriter, r *http.Request, _ string) {
	in, ok := read[api.InventoryReport](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports = append(b.reports, in)
	for _, d := range in.Devices {
		if b.device(d.Identity) == nil {
			b.devices = append(b.devices, &Device{AssignedDevice: api.AssignedDevice{ID: uuid.NewString(), Identity: d.Identity, Name: d.Name,
				Status: api.DeviceNotConfigured}})
		}
	}
	b.changed()
	write(w, b.deviceList())
}

func (b *Broker) deviceList() api.DeviceList {
	out := api.DeviceList{Devices: []api.AssignedDevice{}}
	for _, d := range b.devices {
		out.Devices = append(out.Devices, d.AssignedDevice)
	}
	return out
}

func (b *Broker) list(w http.ResponseWriter, _ *http.Request, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	write(w, b.deviceList())
}

// todo are the commands that stand. The caller holds b.mu.
func (b *Broker) todo() []api.Command {
	out := []api.Command{}
	for _, j := range b.jobs {
		last := len(j.Progress) - 1
		if last >= 0 && (j.Progress[last].Done || j.Progress[last].Failed != "") || (j.Taken > 0 && time.Since(j.silent) < 2*time.Second) {
			continue
		}
		d := b.device(j.DeviceID).AssignedDevice
		out = append(out, api.Command{Kind: api.CommandEncrypt, JobID: j.ID, DeviceID: j.DeviceID, Device: &d, Destroy: j.Destroy})
	}
	for _, r := range b.requests {
		if r.Status == api.KeyRevoking {
			out = append(out, api.Command{Kind: api.CommandRevoke, RequestID: r.ID, DeviceID: r.DeviceID, Mode: r.Revoke, Reason: r.Reason})
		}
	}
	return out
}

func (b *Broker) commands(w http.ResponseWriter, r *http.Request, _ string) {
	var out []api.Command
	seconds, _ := strconv.Atoi(r.URL.Query().Get("wait"))
	b.poll(r, min(time.Duration(seconds)*time.Second, 500*time.Millisecond), func() bool { out = b.todo(); return len(out) > 0 })
	if len(out) > 0 {
		time.Sleep(20 * time.Millisecond) // an unchanged list is held back, so that agents do not spin
	}
	write(w, api.CommandList{Commands: out})
}

func (b *Broker) heartbeat(w http.ResponseWriter, r *http.Request, _ string) {
	in, ok := read[api.Heartbeat](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.beats = append(b.beats, in)
	out := api.HeartbeatResponse{NextSeconds: b.Heartbeat, Leases: []api.Lease{}, Commands: b.todo(), Time: time.Now().UTC()}
	for _, h := range in.Held {
		q := b.request(h.RequestID)
		switch {
		case q != nil && q.Status == api.KeyDelivered:
			out.Leases = append(out.Leases, api.Lease{RequestID: q.ID, Seconds: b.Lease})
		case q == nil || q.Status != api.KeyRevoking:
			out.Commands = append(out.Commands, api.Command{Kind: api.CommandRevoke, RequestID: h.RequestID, Mode: api.RevokeUnmount, Reason: "not delivered"})
		}
	}
	write(w, out)
}

// nonceOf says whether a nonce was given and not used, or is one of the request's connection that was not used. The caller
// holds b.mu.
func (b *Broker) nonceOf(r *http.Request, nonce string) bool {
	text, made := strings.CutPrefix(nonce, "tls1.")
	unused, known := b.nonces[nonce]
	if !made || known {
		return unused
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != 48 {
		return false
	}
	want, err := r.TLS.ExportKeyingMaterial("EXPERIMENTAL-keyward-nonce-v1", raw[:16], 32)
	return err == nil && bytes.Equal(raw[16:], want)
}

func (b *Broker) ask(w http.ResponseWriter, r *http.Request, instance string) {
	in, ok := read[api.KeyRequest](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.nonceOf(r, in.Nonce) || in.Evidence.Nonce != in.Nonce {
		problem(w, http.StatusForbidden, "nonce refused")
		return
	}
	b.nonces[in.Nonce] = false
	if d := b.device(in.DeviceID); d == nil || d.Volume == nil {
		problem(w, http.StatusNotFound, "no such device")
		return
	}
	if b.pool[in.DeviceID] {
		problem(w, http.StatusConflict, "the machine has its device of the pool")
		return
	}
	again := false
	if old := b.newest(in.DeviceID); old != nil {
		switch old.Status {
		case api.KeyRevoking:
			problem(w, http.StatusConflict, "revoke in progress")
			return
		case api.KeyDelivered:
			again = true
			b.set(old, api.KeyExpired, "agent restarted")
		case api.KeyPending, api.KeyApproved:
			b.set(old, api.KeyExpired, "superseded")
		}
	}
	b.number++
	q := &Request{Asked: in, KeyRequestStatus: api.KeyRequestStatus{ID: uuid.NewString(), Number: b.number, DeviceID: in.DeviceID,
		Status: api.KeyPending, Integrity: api.IntegrityUnknownNoRules, Reason: "a person has to decide", Version: 1,
		HeartbeatSeconds: b.Heartbeat, LeaseSeconds: b.Lease, WaitsFor: "A Key Approver of the account approves or denies it.",
		Failed: []api.Shortfall{{Title: "Network Services (TCP)", Actual: "22, 80", Grade: api.GradeSelfReported}}}}
	if again || (b.Approve != nil && b.Approve(in)) {
		q.Status, q.Reason = api.KeyApproved, "approved at once"
	}
	b.requests = append(b.requests, q)
	b.changed()
	if q.Status != api.KeyApproved || !in.Deliver {
		write(w, q.KeyRequestStatus)
		return
	}
	d := b.hand(q, instance)
	out := q.KeyRequestStatus
	out.Delivery = &d
	write(w, out)
}

func (b *Broker) status(w http.ResponseWriter, r *http.Request, _ string) {
	id := r.PathValue("id")
	seconds, _ := strconv.Atoi(r.URL.Query().Get("wait"))
	after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	var out api.KeyRequestStatus
	found := false
	b.poll(r, min(time.Duration(seconds)*time.Second, 500*time.Millisecond), func() bool {
		q := b.request(id)
		if found = q != nil; !found {
			return true
		}
		out = q.KeyRequestStatus
		return out.Version != after
	})
	if !found {
		problem(w, http.StatusNotFound, "no such request")
		return
	}
	write(w, out)
}

func (b *Broker) deliver(w http.ResponseWriter, r *http.Request, instance string) {
	in, ok := read[api.DeliveryRequest](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.request(r.PathValue("id"))
	if q == nil || q.Status != api.KeyApproved || !slices.Equal(in.PublicKey, q.Asked.PublicKey) {
		problem(w, http.StatusConflict, "not to be delivered")
		return
	}
	write(w, b.hand(q, instance))
}

// hand seals the key of an approved request.
func (b *Broker) hand(q *Request, instance string) api.KeyDelivery {
	d := b.device(q.DeviceID)
	out := b.seal(q.Asked.PublicKey, d, api.DeliveryBinding{Purpose: "key-request", AccountID: b.AccountID, RequestID: q.ID, DeviceID: d.ID,
		InstanceID: instance, Nonce: q.Asked.Nonce, LeaseSeconds: b.Lease})
	out.Volume = *d.Volume
	if b.Tamper != nil {
		b.Tamper(&out)
	}
	b.set(q, api.KeyDelivered, "")
	return out
}

func (b *Broker) seal(public []byte, d *Device, binding api.DeliveryBinding) api.KeyDelivery {
	kem, kdf, aead := client.DeliverySuite()
	key, err := kem.NewPublicKey(public)
	if err != nil {
		panic(err)
	}
	enc, sender, err := hpke.NewSender(key, kdf, aead, []byte(api.HPKEInfo))
	if err != nil {
		panic(err)
	}
	var volume api.VolumeRecord // a device that is to be encrypted has none yet
	if binding.Purpose == "key-request" {
		volume = *d.Volume
	}
	if binding.VolumeSHA256, err = client.VolumeSHA256(volume); err != nil {
		panic(err)
	}
	if binding.DeviceSHA256, err = client.DeviceSHA256(d.AssignedDevice); err != nil {
		panic(err)
	}
	aad, err := json.Marshal(binding)
	if err != nil {
		panic(err)
	}
	plain := d.plain()
	defer clear(plain)
	sealed, err := sender.Seal(aad, plain)
	if err != nil {
		panic(err)
	}
	return api.KeyDelivery{Binding: aad, EncapsulatedKey: enc, SealedKey: sealed, LeaseSeconds: binding.LeaseSeconds, Device: d.AssignedDevice}
}

func (b *Broker) event(w http.ResponseWriter, r *http.Request, _ string) {
	in, ok := read[api.RequestEvent](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.request(r.PathValue("id"))
	if q == nil {
		problem(w, http.StatusNotFound, "no such request")
		return
	}
	q.Events = append(q.Events, in)
	d := b.device(q.DeviceID)
	switch in.Event {
	case api.EventMounted:
		d.Status = api.DeviceInUse
	case api.EventRevoked, api.EventSuspended:
		d.Status = api.DeviceEncrypted
		b.set(q, api.KeyRevoked, "given up")
	case api.EventUnmounted:
		d.Status = api.DeviceEncrypted
		b.set(q, api.KeyExpired, "unmounted")
	case api.EventFailed:
		d.Status = api.DeviceEncrypted
		b.set(q, api.KeyFailure, in.Detail)
	}
	b.changed()
	w.WriteHeader(http.StatusNoContent)
}

func (b *Broker) jobKey(w http.ResponseWriter, r *http.Request, instance string) {
	in, ok := read[api.JobKeyRequest](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.jobs, func(j *Job) bool { return j.ID == r.PathValue("id") })
	if i < 0 || !b.nonces[in.Nonce] {
		problem(w, http.StatusNotFound, "no such job or nonce")
		return
	}
	b.nonces[in.Nonce] = false
	j := b.jobs[i]
	j.Taken++
	j.silent = time.Now()
	d := b.device(j.DeviceID)
	d.Status = api.DeviceEncrypting
	if d.Key == nil {
		d.Key = random(d.KeyBits / 4)
	}
	b.changed()
	write(w, b.seal(in.PublicKey, d, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: b.AccountID, RequestID: j.ID, DeviceID: d.ID,
		InstanceID: instance, Nonce: in.Nonce, LeaseSeconds: b.Lease}))
}

func (b *Broker) jobProgress(w http.ResponseWriter, r *http.Request, _ string) {
	in, ok := read[api.JobProgress](w, r)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.jobs, func(j *Job) bool { return strings.EqualFold(j.ID, r.PathValue("id")) })
	if i < 0 {
		problem(w, http.StatusNotFound, "no such job")
		return
	}
	j := b.jobs[i]
	j.Progress = append(j.Progress, in)
	j.silent = time.Now()
	d := b.device(j.DeviceID)
	switch {
	case in.Done:
		d.Volume, d.Status = in.Volume, api.DeviceEncrypted
	case in.Failed != "":
		d.Status = api.DeviceEncryptionError
	}
	b.changed()
	w.WriteHeader(http.StatusNoContent)
}
