package keyrequest

import (
	"context"
	"errors"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// alarms are the messages that are kept until somebody puts them aside. The others tell of what is in the list and its
// counters anyway, or was decided as the policy wants it.
var alarms = map[string]bool{"integrity-failed": true, "check-overdue": true, "lease-ended": true, "revoke-overdue": true,
	"revoke-failed": true, "instance-missing": true, "key-request-failed": true}

// maxNotices is the longest list of notices.
const maxNotices = 100

// tell keeps a message for people.
func (s *Service) tell(t *store.Tenant, r *store.KeyRequest, kind string) error {
	if !alarms[kind] {
		return nil
	}
	return store.In[store.Notice](t).Insert(&store.Notice{Kind: kind, RequestID: r.ID, InstanceID: r.InstanceID, DeviceID: r.DeviceID, Text: r.Reason})
}

// Notices lists what waits for people beside key requests, and then what happened by itself and nobody has put aside, newest
// first.
func (s *Service) Notices(ctx context.Context, p tenant.Principal) (api.NoticeList, error) {
	out := api.NoticeList{Notices: []api.Notice{}}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		rows, err := store.In[store.Notice](t).List(store.IsNull("seen_at"), store.Desc("created_at"), store.Limit(maxNotices))
		if err != nil {
			return err
		}
		if out.Total, err = store.In[store.Notice](t).Count(store.IsNull("seen_at")); err != nil {
			return err
		}
		if s.Waiting != nil {
			waiting, err := s.Waiting.Notices(t, p)
			if err != nil {
				return err
			}
			out.Notices, out.Total = append(out.Notices, waiting...), out.Total+int64(len(waiting))
		}
		for _, n := range rows {
			view := api.Notice{ID: n.ID, Kind: n.Kind, At: n.CreatedAt, RequestID: n.RequestID, InstanceID: n.InstanceID, DeviceID: n.DeviceID, Text: n.Text}
			if i, err := store.In[store.Instance](t).First(store.Eq("id", n.InstanceID), store.Only("id", "host_name")); err == nil {
				view.Instance = i.HostName
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if d, err := store.In[store.Device](t).First(store.Eq("id", n.DeviceID), store.Only("id", "name")); err == nil {
				view.Device = d.Name
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			out.Notices = append(out.Notices, view)
		}
		return nil
	})
	return out, err
}

// Dismiss puts notices aside, for everybody in the account; "all" means every one.
func (s *Service) Dismiss(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		notices := store.In[store.Notice](t)
		filters := []store.Filter{store.IsNull("seen_at")}
		if id != "all" {
			filters = append(filters, store.Eq("id", id))
		}
		rows, err := notices.List(filters...)
		if err != nil {
			return err
		}
		if len(rows) == 0 && id != "all" {
			return problem.NotFound("notice")
		}
		now := t.Now()
		for _, n := range rows {
			n.SeenBy, n.SeenAt = p.UserName, &now
			if err := notices.Update(&n); err != nil {
				return err
			}
			if err := audit.Append(t, audit.Entry{Category: audit.User, Event: "notice.dismissed", Actor: p.Actor(), Subject: n.ID,
				Detail: map[string]string{"kind": n.Kind, "request": n.RequestID}}); err != nil {
				return err
			}
		}
		t.AfterCommit(func() { s.Feed.Publish(p.AccountID, feed.TopicKeyRequests) })
		return nil
	})
}
