package httpapi

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Route declares one call. Exactly one of Operation, Open, Machine and Image says who may make it: a route that says nothing
// cannot be registered, so nothing is served by accident.
type Route struct {
	Method string
	// Path with parameters in braces: "/api/v1/devices/{id}".
	Path string
	// Operation is what a person's role must allow.
	Operation rbac.Operation
	// Open routes need no session: log-on, enrolment, the OpenAPI document.
	Open bool
	// Machine routes need the client certificate of an enrolled machine.
	Machine bool
	// Proves says of a machine's route that its own transaction finds out whether the certificate is on record, with
	// inventory.Caller: until then the caller is unproven. It spares a look-up, and what is done is done for a certificate that
	// counts at that moment.
	Proves bool
	// Image routes need the certificate of an image.
	Image bool
	// Stages are the sessions that may make the call although they are not complete.
	Stages []api.Stage
	// Summary is one line for the OpenAPI document.
	Summary string
	// Status is that of a success; 0 means 200, or 204 where there is no body.
	Status int
}

// Gate finds out who calls and whether they may.
type Gate interface {
	// Admit returns the caller, or a problem. It runs before the body is looked at.
	Admit(c *fiber.Ctx, r Route) (tenant.Principal, error)
}

// Router registers the routes of one interface.
type Router struct {
	app    *fiber.App
	api    huma.API
	gate   Gate
	log    *slog.Logger
	prefix string
	routes []Route
	// machines slows single machines down; nil on interfaces of people.
	machines *limiter
}

// limitMachines bounds the calls of each machine.
func (r *Router) limitMachines(l *limiter) { r.machines = l }

// NewRouter makes the router of an interface under a prefix such as "/api/v1". Its OpenAPI document is served, open to
// everybody, at PREFIX/openapi.json (3.1) and PREFIX/openapi-3.0.json.
func NewRouter(app *fiber.App, prefix, title, version string, gate Gate, log *slog.Logger) *Router {
	if log == nil {
		log = slog.Default()
	}
	r := &Router{app: app, gate: gate, log: log, prefix: prefix}
	r.api = humafiber.New(app, openAPI(title, version))
	r.serveOpenAPI()
	return r
}

// Routes are all registered routes, in order.
func (r *Router) Routes() []Route { return append([]Route(nil), r.routes...) }

func (r *Router) register(rt Route) {
	said := 0
	for _, b := range []bool{rt.Operation != "", rt.Open, rt.Machine, rt.Image} {
		if b {
			said++
		}
	}
	if said != 1 {
		panic(fmt.Sprintf("httpapi: route %s %s must say exactly one of Operation, Open, Machine, Image", rt.Method, rt.Path))
	}
	if rt.Proves && !rt.Machine {
		panic(fmt.Sprintf("httpapi: route %s %s proves its callers and is not for machines", rt.Method, rt.Path))
	}
	if !strings.HasPrefix(rt.Path, r.prefix+"/") {
		panic(fmt.Sprintf("httpapi: route %s %s is not under %s", rt.Method, rt.Path, r.prefix))
	}
	r.routes = append(r.routes, rt)
}

// Call is a route with typed input and output. I and O are huma structs: path, query and header parameters by tag, the
// JSON body in a field Body. The principal is empty on open routes.
type Call[I, O any] func(ctx context.Context, p tenant.Principal, in *I) (*O, error)

// None is the input or output of a route that has none.
type None struct{}

// handle registers a typed route.
func handle[I, O any](r *Router, rt Route, call Call[I, O]) {
	r.register(rt)
	op := huma.Operation{
		Method: rt.Method, Path: rt.Path, Summary: rt.Summary, OperationID: operationID(rt), DefaultStatus: rt.Status,
		MaxBodyBytes: BodyLimit, Tags: []string{tag(r.prefix, rt.Path)}, Errors: []int{http.StatusBadRequest},
		Middlewares: huma.Middlewares{r.admit(rt)},
	}
	if !rt.Open {
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
		op.Security = []map[string][]string{{securityScheme(rt): {}}}
	}
	if strings.Contains(rt.Path, "{") {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	huma.Register(r.api, op, func(ctx context.Context, in *I) (*O, error) {
		p, _ := ctx.Value(principalKey{}).(tenant.Principal)
		id, _ := ctx.Value(requestKey{}).(string)
		out, err := call(ctx, p, in)
		if err != nil {
			p := Problem(refusal(err, r.log, id, rt.Path))
			return nil, &p
		}
		return out, nil
	})
}

// raw registers a route that writes its own answer: downloads and streams. It is in the OpenAPI document by its summary.
func raw(r *Router, rt Route, h func(c *fiber.Ctx, p tenant.Principal) error) {
	r.register(rt)
	op := &huma.Operation{Method: rt.Method, Path: rt.Path, Summary: rt.Summary, OperationID: operationID(rt),
		Tags: []string{tag(r.prefix, rt.Path)}, Responses: map[string]*huma.Response{"200": {Description: rt.Summary}}}
	if !rt.Open {
		op.Security = []map[string][]string{{securityScheme(rt): {}}}
	}
	r.api.OpenAPI().AddOperation(op)
	r.app.Add(rt.Method, pattern(rt.Path), func(c *fiber.Ctx) error {
		var p tenant.Principal
		if !rt.Open {
			var err error
			if p, err = r.gate.Admit(c, rt); err != nil {
				return err
			}
		}
		return h(c, p)
	})
}

// pattern is a path as Fiber has it.
func pattern(path string) string { return strings.NewReplacer("{", ":", "}", "").Replace(path) }

type (
	principalKey struct{}
	requestKey   struct{}
	callerKey    struct{}
)

// caller is what the transport knows of whoever calls, on open routes too.
type caller struct {
	address, userAgent string
	// machineKey is that of the client certificate, nil for callers without one.
	machineKey *ecdsa.PublicKey
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

func machineKey(c *fiber.Ctx) *ecdsa.PublicKey {
	state := c.Context().TLSConnectionState()
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	key, _ := state.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
	return key
}

func (r *Router) admit(rt Route) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		c := humafiber.Unwrap(ctx)
		ctx = huma.WithValue(ctx, requestKey{}, RequestID(c))
		ctx = huma.WithValue(ctx, callerKey{}, caller{address: c.IP(), userAgent: c.Get(fiber.HeaderUserAgent), machineKey: machineKey(c)})
		p, before := c.Locals(entered{}).(tenant.Principal)
		if !before {
			var err error
			if p, err = r.enter(c, rt); err != nil {
				if err := refuse(c, r.log, err); err != nil {
					r.log.Error("writing a refusal failed", "error", err)
				}
				return
			}
		}
		next(huma.WithValue(ctx, principalKey{}, p))
	}
}

// Problem carries a problem through huma, and into the OpenAPI document.
type Problem problem.Problem

// Error implements error.
func (e *Problem) Error() string { return (*problem.Problem)(e).Error() }

// GetStatus implements huma.StatusError.
func (e *Problem) GetStatus() int { return e.Status }

// ContentType implements huma.ContentTypeFilter.
func (e *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders is how huma learns of headers that go with a refusal.
func (e *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if e.RetryAfter > 0 {
		h.Set(fiber.HeaderRetryAfter, seconds(e.RetryAfter))
	}
	return h
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
