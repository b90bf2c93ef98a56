package console

import (
	"bufio"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

const (
	streamHeartbeat = 15 * time.Second
	// streamLife ends every stream, so that a browser renews it and connections of closed lids do not pile up.
	streamLife = 30 * time.Minute
	// The most streams of a session, an account and a broker: a few for every open tab.
	sessionStreams = 16
	accountStreams = 500
	maxStreams     = 4000
)

// topicOperations says who may hear of a topic. Topics carry no data, but that something changed is news too.
var topicOperations = map[string]rbac.Operation{
	feed.TopicKeyRequests: rbac.RunningInstancesRead,
	feed.TopicDevices:     rbac.DevicesRead,
	feed.TopicExports:     rbac.KeyExportsRead,
}

// streamRows tells a page that something it shows has changed (server-sent events). It carries no data: the page reads
// itself again with its viewer's own rights.
func streamRows(v *visit) error {
	topics := strings.Fields(v.query("topic"))
	for _, topic := range topics {
		if op, ok := topicOperations[topic]; !ok || !v.may(op) {
			return problem.Forbidden("events." + topic)
		}
	}
	if len(topics) == 0 {
		return problem.Invalid("topic", "name at least one topic")
	}
	release, ok := v.streams.Take(v.p.AccountID, v.p.SessionID)
	if !ok {
		return problem.TooMany(streamHeartbeat)
	}
	subscription := v.Feed.Subscribe(v.p.AccountID, topics...)
	v.http.Set("Content-Type", "text/event-stream")
	v.http.Set("X-Accel-Buffering", "no")
	c, person, running := v.console, v.p, v.http.UserContext()
	v.http.Status(http.StatusOK).Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		defer release()
		defer subscription.Close()
		c.pump(running, w, subscription, func(ctx context.Context) bool { return c.mayStillHear(ctx, person, topics) })
	})
	return nil
}

// mayStillHear looks whether the session lives and the role still permits the topics. It does not count as use of the
// session: a page that is only left open must not keep it alive.
func (c *console) mayStillHear(ctx context.Context, p tenant.Principal, topics []string) bool {
	sessions, err := c.Accounts.Sessions(ctx, p)
	if err != nil || !slices.ContainsFunc(sessions, func(s api.Session) bool { return s.ID == p.SessionID }) {
		return false
	}
	u, err := c.Accounts.User(ctx, p, p.UserID)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(topics, func(topic string) bool { return !c.Access.Allowed(string(u.Role), topicOperations[topic]) })
}

// pump writes events until the client is gone, the session ended or the stream is old. The session is asked for before
// every word, so a revoked one hears nothing more.
func (c *console) pump(running context.Context, w *bufio.Writer, s *feed.Subscription, alive func(context.Context) bool) {
	end := time.NewTimer(streamLife)
	defer end.Stop()
	beat := time.NewTicker(streamHeartbeat)
	defer beat.Stop()
	word := ": open\n\n"
	for {
		if _, err := w.WriteString(word); err != nil {
			return
		}
		if err := w.Flush(); err != nil {
			return
		}
		select {
		case <-running.Done(): // the broker stops
			return
		case <-end.C:
			return
		case <-beat.C:
			word = ": alive\n\n"
		case <-s.C():
			s.Take()
			word = "event: changed\ndata: \n\n"
		}
		ctx, cancel := context.WithTimeout(running, callTimeout)
		ok := alive(ctx)
		cancel()
		if !ok {
			return
		}
	}
}
