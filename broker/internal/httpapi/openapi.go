package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

func openAPI(title, version string) huma.Config {
	cfg := huma.DefaultConfig(title, version)
	cfg.CreateHooks = nil // else every body gets a $schema URL made of the request's Host header
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.RejectUnknownQueryParameters = true
	cfg.Formats = map[string]huma.Format{
		"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat, // suffix +json
	}
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"session": {Type: "http", Scheme: "bearer", Description: "the token that POST /api/v1/sessions returns"},
		"machine": {Type: "mutualTLS", Description: "the client certificate of enrolment"},
	}
	return cfg
}

func securityScheme(rt Route) string {
	if rt.Machine || rt.Image {
		return "machine"
	}
	return "session"
}

// serveOpenAPI serves the document in both versions; it is made once, when everything is registered.
func (r *Router) serveOpenAPI() {
	v31 := sync.OnceValues(func() ([]byte, error) { return json.Marshal(r.api.OpenAPI()) })
	v30 := sync.OnceValues(func() ([]byte, error) { return r.api.OpenAPI().Downgrade() })
	for path, doc := range map[string]func() ([]byte, error){"/openapi.json": v31, "/openapi-3.0.json": v30} {
		raw(r, Route{Method: http.MethodGet, Path: r.prefix + path, Open: true, Summary: "This document"}, func(c *fiber.Ctx, _ tenant.Principal) error {
			b, err := doc()
			if err != nil {
				return fmt.Errorf("making the OpenAPI document: %w", err)
			}
			c.Set(fiber.HeaderContentType, "application/openapi+json")
			return c.Send(b)
		})
	}
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

// operationID is made of method and path: "get-devices-id".
func operationID(rt Route) string {
	path := strings.SplitN(strings.Trim(rt.Path, "/"), "/", 3)
	return strings.Trim(notWord.ReplaceAllString(strings.ToLower(rt.Method+"-"+path[len(path)-1]), "-"), "-")
}

func tag(prefix, path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, prefix+"/"), "/")
	return first
}

// huma's own refusals (a body that is not JSON, a value out of range) take the shape of all others. The offending value
// is left out: it may be a password.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		p := problem.New(status, "bad-request", "The request is malformed", message+".", "Check the request; openapi.json describes it.")
		switch status {
		case http.StatusUnprocessableEntity:
			p = problem.New(status, "invalid", "The request is not valid", "", "Correct the named fields.")
		case http.StatusRequestEntityTooLarge:
			p = problem.TooLarge(BodyLimit)
		case http.StatusInternalServerError:
			p = problem.Internal()
		}
		for _, err := range errs {
			d, ok := err.(huma.ErrorDetailer)
			if !ok || status == http.StatusInternalServerError {
				continue
			}
			detail := d.ErrorDetail()
			if p.Fields == nil {
				p.Fields = map[string]string{}
			}
			field := strings.TrimPrefix(strings.TrimPrefix(detail.Location, "body."), "query.")
			if field == "" {
				field = "body"
			}
			p.Fields[field] = detail.Message
		}
		return (*Problem)(p)
	}
}
