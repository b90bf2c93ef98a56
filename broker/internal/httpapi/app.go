// Package httpapi serves the people's interface (/api/v1) and the agents' interface (/agent/v1) over HTTP. It turns
// requests into calls of services and their answers and refusals into JSON; it decides nothing itself.
//
// Every route is declared with the operation that it performs (route.go). A people's route is checked against the role
// matrix before its body is read; an agents' route needs the client certificate of an enrolled machine.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"keyward/broker/internal/problem"
)

// BodyLimit is the largest request body, in bytes.
const BodyLimit = 1 << 20

// AppOptions configures an app of one listener.
type AppOptions struct {
	Name string
	// Base is the parent of every request's context; cancelling it ends long polls and streams.
	Base context.Context
	// WriteTimeout bounds writing one answer; 0 where answers are streams.
	WriteTimeout time.Duration
	// Patient says that thousands of connections are open and wait most of the time: for their next request, or for the
	// database. They hold no buffers meanwhile, which were 20 KiB each. Use it with TLS only: what bounds the wait for the
	// first byte of a connection is the time that its handshake had.
	Patient bool
	// TrustedProxies are addresses and CIDR prefixes whose X-Forwarded-For header is believed.
	TrustedProxies []string
	Logger         *slog.Logger
	// Observe is told of every finished request; route is the pattern, never the path as sent. It may be nil.
	Observe func(method, route string, status int, took time.Duration)
}

// NewApp makes a Fiber app with the settings that all of the broker's listeners share.
func NewApp(o AppOptions) *fiber.App {
	if o.Base == nil {
		o.Base = context.Background()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	app := fiber.New(fiber.Config{
		AppName: o.Name,
		// Without it Fiber's strings point into a buffer that the next request overwrites, perhaps another tenant's.
		Immutable:               true,
		BodyLimit:               BodyLimit,
		ReadTimeout:             30 * time.Second,
		WriteTimeout:            o.WriteTimeout,
		IdleTimeout:             2 * time.Minute,
		ReadBufferSize:          16 << 10, // of all headers together
		ReduceMemoryUsage:       o.Patient,
		Concurrency:             16 << 10,
		DisableStartupMessage:   true,
		DisableDefaultDate:      false,
		StrictRouting:           true,
		CaseSensitive:           true,
		EnableTrustedProxyCheck: true,
		TrustedProxies:          o.TrustedProxies,
		ProxyHeader:             fiber.HeaderXForwardedFor,
		EnableIPValidation:      true,
		ErrorHandler:            func(c *fiber.Ctx, err error) error { return refuse(c, o.Logger, err) },
	})
	app.Use(frame(o))
	plainOnly(app)
	return app
}

const requestIDKey = "keyward-request-id"

// RequestID is the ID under which the broker's log knows the request.
func RequestID(c *fiber.Ctx) string {
	id, _ := c.Locals(requestIDKey).(string)
	return id
}

// frame is around every request: its ID, headers that no answer may lack, panics and the log line.
func frame(o AppOptions) fiber.Handler {
	return func(c *fiber.Ctx) (err error) {
		began := time.Now()
		c.Locals(requestIDKey, uuid.NewString())
		c.SetUserContext(o.Base)
		c.Set("X-Request-Id", RequestID(c))
		c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
		c.Set(fiber.HeaderXFrameOptions, "DENY")
		c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
		c.Set(fiber.HeaderCacheControl, "no-store")
		c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; frame-ancestors 'none'")
		c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000")
		defer func() {
			if r := recover(); r != nil {
				o.Logger.Error("a request made the broker panic", "request_id", RequestID(c), "route", c.Route().Path, "panic", r, "stack", string(debug.Stack()))
				err = refuse(c, o.Logger, problem.Internal())
			}
			if err != nil {
				err = refuse(c, o.Logger, err)
			}
			route, status, took := c.Route().Path, c.Response().StatusCode(), time.Since(began)
			if o.Logger.Enabled(c.UserContext(), slog.LevelDebug) {
				o.Logger.Debug("request", "method", c.Method(), "route", route, "status", status, "took", took, "request_id", RequestID(c))
			}
			if o.Observe != nil {
				o.Observe(c.Method(), route, status, took)
			}
		}()
		return c.Next()
	}
}

// refuse writes an error as a problem document. Errors that are not the caller's go to the log, whole, and nowhere else.
func refuse(c *fiber.Ctx, log *slog.Logger, err error) error {
	p := refusal(err, log, RequestID(c), c.Route().Path)
	if p.RetryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, seconds(p.RetryAfter))
	}
	if p.Status == fiber.StatusUnauthorized {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="keyward"`)
	}
	c.Status(p.Status)
	return c.JSON(p, "application/problem+json")
}

// refusal makes a problem of any error.
func refusal(err error, log *slog.Logger, requestID, route string) problem.Problem {
	var f *fiber.Error
	if errors.As(err, &f) {
		err = ofFiber(f)
	}
	p, known := problem.From(err)
	if !known {
		log.Error("a request failed", "request_id", requestID, "route", route, "error", err)
	}
	out := *p
	out.RequestID = requestID
	return out
}

// ofFiber names the refusals of the framework.
func ofFiber(f *fiber.Error) *problem.Problem {
	switch f.Code {
	case fiber.StatusNotFound:
		return problem.New(f.Code, "no-such-route", "No such address", "The broker has nothing at this address.", "Check the path; openapi.json lists all of them.")
	case fiber.StatusMethodNotAllowed:
		return problem.New(f.Code, "method-not-allowed", "No such method", "This address does not take this method.", "Check the method; openapi.json lists them.")
	case fiber.StatusRequestEntityTooLarge:
		return problem.TooLarge(BodyLimit)
	case fiber.StatusRequestHeaderFieldsTooLarge:
		return problem.New(f.Code, "headers-too-large", "The headers are too large", "The request's headers do not fit into 16 KiB.", "Send fewer or smaller headers and cookies.")
	case fiber.StatusRequestTimeout:
		return problem.New(f.Code, "request-timeout", "The request took too long", "The request did not arrive within 30 seconds.", "Try again on a better connection.")
	}
	if f.Code >= 400 && f.Code < 500 {
		return problem.New(f.Code, "bad-request", "The request is malformed", "The request is not valid HTTP for this address.", "Check the request; openapi.json describes it.")
	}
	return problem.Internal()
}
