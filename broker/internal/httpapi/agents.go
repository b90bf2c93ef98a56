package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/job"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// AgentDeps are the services behind the agents' interface.
type AgentDeps struct {
	Inventory *inventory.Service
	Requests  *keyrequest.Service
	Jobs      *job.Service
	// Clock is the limiter's; nil means time.Now.
	Clock func() time.Time
}

// Enrolments that one address may try: a burst, and then one each interval. A machine needs one.
const (
	enrolBurst    = 60
	enrolInterval = time.Second
)

// Calls that one enrolled machine may make: a burst, enough for its start with hundreds of devices, and then one each
// interval. A machine that was taken over must not keep the broker from the others.
const (
	machineBurst    = 5000
	machineInterval = 5 * time.Millisecond
)

// AgentCall is the input of a machine's call with a body. RawBody is what an idempotency key stands for.
type AgentCall[T any] struct {
	Key     string `header:"Idempotency-Key"`
	RawBody []byte
	Body    T
	// answer is what was stored to be given again, so that it is encoded once.
	answer []byte
}

func (in *AgentCall[T]) call(p tenant.Principal, what string) idempotency.Call {
	return idempotency.Call{Scope: "instance/" + p.Instance + "/" + what, Key: in.Key, Body: in.RawBody, Answer: &in.answer}
}

// AgentCallByID is AgentCall on one request or job.
type AgentCallByID[T any] struct {
	ID string `path:"id" maxLength:"64"`
	AgentCall[T]
}

type WaitInput struct {
	Wait int `query:"wait" minimum:"0" maximum:"60" doc:"seconds to hold the answer back until there is something new"`
}

type statusInput struct {
	ByID
	WaitInput
	After int64 `query:"after" doc:"the version that the caller knows"`
}

// RegisterAgents registers the agents' interface under /agent/v1.
func RegisterAgents(r *Router, d AgentDeps) {
	if d.Clock == nil {
		d.Clock = time.Now
	}
	limit := newLimiter(enrolBurst, enrolInterval, d.Clock)
	r.app.Use(api.PathEnrol, func(c *fiber.Ctx) error {
		if wait, ok := limit.allow(network(c.IP())); !ok {
			return problem.TooMany(wait)
		}
		return c.Next()
	})
	r.limitMachines(newLimiter(machineBurst, machineInterval, d.Clock))
	machine := func(method, path, summary string) Route {
		return Route{Method: method, Path: path, Machine: true, Summary: summary}
	}
	proving := func(method, path, summary string) Route {
		rt := machine(method, path, summary)
		rt.Proves = true
		return rt
	}
	handle(r, Route{Method: http.MethodPost, Path: api.PathEnrol, Open: true, Summary: "Trade an enrolment token for a client certificate"},
		func(ctx context.Context, _ tenant.Principal, in *AgentCall[api.EnrolRequest]) (*answer[api.EnrolResponse], error) {
			return answerOf(d.Inventory.Enrol(ctx, callerOf(ctx).address, idempotency.Call{Key: in.Key, Body: in.RawBody}, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: api.PathEnrolInstance, Image: true, Summary: "Enrol a machine by its image's certificate"},
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.EnrolRequest]) (*answer[api.EnrolResponse], error) {
			call := idempotency.Call{Scope: "image/" + p.Image + "/enrol-instance", Key: in.Key, Body: in.RawBody}
			return answerOf(d.Inventory.EnrolInstance(ctx, p, call, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathCertificate, "Renew the machine's certificate"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.RenewRequest]) (*answer[api.RenewResponse], error) {
			return answerOf(d.Inventory.Renew(ctx, p, in.call(p, "certificate"), in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathTPM, "Show the machine's TPM"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.TPMRegistration]) (*answer[api.TPMChallenge], error) {
			return answerOf(d.Inventory.RegisterTPM(ctx, p, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathTPMActivation, "Answer the TPM's challenge"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.TPMActivation]) (*answer[api.TPMInfo], error) {
			return answerOf(d.Inventory.ActivateTPM(ctx, p, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathNonce, "Fetch a challenge"),
		func(_ context.Context, p tenant.Principal, _ *None) (*answer[api.NonceResponse], error) {
			return answerOf(d.Requests.Nonce(p), nil)
		})
	handle(r, machine(http.MethodPut, api.PathInventory, "Publish the complete list of devices"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.InventoryReport]) (*answer[api.DeviceList], error) {
			return answerOf(d.Inventory.Publish(ctx, p, in.call(p, "inventory"), in.Body))
		})
	handle(r, machine(http.MethodGet, api.PathAgentDevices, "Read what the broker has recorded of this machine's devices"),
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.DeviceList], error) {
			return answerOf(d.Inventory.Assigned(ctx, p))
		})
	handle(r, machine(http.MethodGet, api.PathCommands, "Wait for something to do"),
		func(ctx context.Context, p tenant.Principal, in *WaitInput) (*answer[api.CommandList], error) {
			return answerOf(d.Requests.Commands(ctx, p, time.Duration(in.Wait)*time.Second))
		})
	direct(r, proving(http.MethodPost, api.PathHeartbeat, "Report life, evidence and held keys; renews leases"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.Heartbeat]) (*answer[api.HeartbeatResponse], error) {
			return answerOf(d.Requests.Heartbeat(ctx, p, in.Body))
		})
	registerAgentKeys(r, d, machine, proving)
}

func registerAgentKeys(r *Router, d AgentDeps, machine, proving func(method, path, summary string) Route) {
	direct(r, proving(http.MethodPost, api.PathKeyRequests, "Ask for the key of a device"),
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.KeyRequest]) (*answer[api.KeyRequestStatus], error) {
			return answerOf(d.Requests.Ask(ctx, p, in.call(p, "key-requests"), in.Body))
		})
	handle(r, machine(http.MethodGet, api.PathKeyRequest, "Read a key request, or wait for it to change"),
		func(ctx context.Context, p tenant.Principal, in *statusInput) (*answer[api.KeyRequestStatus], error) {
			return answerOf(d.Requests.Status(ctx, p, in.ID, time.Duration(in.Wait)*time.Second, in.After))
		})
	handle(r, machine(http.MethodPost, api.PathDelivery, "Collect the sealed key of an approved request, once"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.DeliveryRequest]) (*answer[api.KeyDelivery], error) {
			return answerOf(d.Requests.Deliver(ctx, p, in.call(p, "delivery/"+in.ID), in.ID, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathRequestEvents, "Report what happened to a delivered key"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.RequestEvent]) (*None, error) {
			return nil, d.Requests.Report(ctx, p, in.call(p, "events/"+in.ID), in.ID, in.Body)
		})
	handle(r, machine(http.MethodPost, api.PathImportOffer, "Ask whether a device's volume may be imported"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.ImportOfferRequest]) (*answer[api.ImportOffer], error) {
			return answerOf(d.Jobs.OfferImport(ctx, p, in.ID, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathImport, "Hand over the key of a volume that was encrypted before"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.ImportKey]) (*answer[api.AssignedDevice], error) {
			return answerOf(d.Jobs.Import(ctx, p, in.call(p, "import/"+in.ID), in.ID, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathJobKey, "Take an encrypt job and its sealed device key"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.JobKeyRequest]) (*answer[api.KeyDelivery], error) {
			return answerOf(d.Jobs.Take(ctx, p, in.call(p, "job-key/"+in.ID), in.ID, in.Body))
		})
	handle(r, machine(http.MethodPost, api.PathJobProgress, "Report how an encrypt job goes"),
		func(ctx context.Context, p tenant.Principal, in *AgentCallByID[api.JobProgress]) (*None, error) {
			return nil, d.Jobs.Progress(ctx, p, in.call(p, "progress/"+in.ID), in.ID, in.Body)
		})
}
