package httpapi

import (
	"time"

	"keyward/broker/internal/dsm"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/job"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
)

// PeopleDeps are the services behind what people do with machines, devices, policies and key requests.
type PeopleDeps struct {
	Inventory job.Desk
	Policies  *policyset.Service
	Previews  *preview.Service
	Requests  *keyrequest.Service
	Feed      *feed.Hub
	// DeepSecurity is the connection to a Deep Security Manager.
	DeepSecurity *dsm.Service
	Sessions     Sessions
	Roles        Roles
	// Pulse is how often event streams look whether their session still counts; 0 means every 15 seconds.
	Pulse time.Duration
}

// RegisterPeople registers those routes under /api/v1. Accounts, users and the audit log are registered on their own.
func RegisterPeople(r *Router, d PeopleDeps) {
	registerRequests(r, d)
	registerChecks(r, d)
	registerPolicies(r, d)
	registerPreviews(r, d)
	registerImages(r, d)
	registerDevices(r, d)
	registerRAIDSets(r, d)
	registerEvents(r, d)
	registerDeepSecurity(r, d)
}

// ByID is the input of routes that need nothing but an ID. What is embedded in inputs is exported: huma sets no other fields.
type ByID struct {
	ID string `path:"id" maxLength:"64"`
}

// answer is the output of routes that return a T.
type answer[T any] struct{ Body T }

func answerOf[T any](body T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{Body: body}, nil
}
