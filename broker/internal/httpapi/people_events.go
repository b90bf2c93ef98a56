package httpapi

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

const (
	// streamPulse is how often a stream sends a comment and looks whether its session still counts, unless the deps say.
	streamPulse = 15 * time.Second
	// streamLife ends every stream, so that connections of clients that are gone do not pile up.
	streamLife = 30 * time.Minute
	// The most streams of a session, an account and a broker; each holds a connection.
	sessionStreams = 16
	accountStreams = 200
	maxStreams     = 2000
)

// topicNeeds says which operation lets a person hear of a topic. Topics carry no data, but that something changed is
// news too.
var topicNeeds = map[string]rbac.Operation{
	feed.TopicKeyRequests: rbac.RunningInstancesRead,
	feed.TopicInstances:   rbac.RunningInstancesRead,
	feed.TopicDevices:     rbac.DevicesRead,
	feed.TopicImages:      rbac.ImagesRead,
	feed.TopicPolicies:    rbac.PoliciesRead,
	feed.TopicExports:     rbac.KeyExportsRead,
	feed.TopicChanged:     rbac.RunningInstancesRead,
}

func registerEvents(r *Router, d PeopleDeps) {
	quota := &feed.Quota{PerOwner: sessionStreams, PerAccount: accountStreams, Total: maxStreams}
	raw(r, Route{Method: http.MethodGet, Path: "/api/v1/events", Operation: rbac.RunningInstancesRead, Summary: "Stream the topics of changes (server-sent events)"},
		func(c *fiber.Ctx, p tenant.Principal) error { return streamEvents(c, p, d, quota) })
}

func streamEvents(c *fiber.Ctx, p tenant.Principal, d PeopleDeps, quota *feed.Quota) error {
	release, ok := quota.Take(p.AccountID, p.SessionID)
	if !ok {
		return problem.TooMany(streamPulse)
	}
	token, _ := sessionToken(c)
	sub := d.Feed.Subscribe(p.AccountID)
	base := c.UserContext()
	c.Set(fiber.HeaderContentType, "text/event-stream")
	c.Set("X-Accel-Buffering", "no")
	c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		defer release()
		defer sub.Close()
		ctx, cancel := context.WithTimeout(base, streamLife)
		defer cancel()
		pulse := time.NewTicker(cmp.Or(d.Pulse, streamPulse))
		defer pulse.Stop()
		send(w, "connected")
		for w.Flush() == nil {
			select {
			case <-ctx.Done():
				return
			case <-pulse.C:
				// A session that was ended elsewhere must not go on listening.
				now, err := d.Sessions.Authenticate(ctx, token, p.Address)
				if err != nil || !d.Roles.Allowed(string(now.Role), rbac.RunningInstancesRead) {
					return
				}
				p.Role = now.Role // what they may hear of follows their role
				fmt.Fprint(w, ": still here\n\n")
			case <-sub.C():
				for _, topic := range sub.Take() {
					if need, known := topicNeeds[topic]; known && d.Roles.Allowed(string(p.Role), need) {
						send(w, topic)
					}
				}
			}
		}
	})
	return nil
}

func send(w *bufio.Writer, topic string) { fmt.Fprintf(w, "event: %s\ndata: {}\n\n", topic) }
