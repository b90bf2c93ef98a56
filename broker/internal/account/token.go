package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// The bounds of an enrolment token.
const (
	maxTokenUses = 100000
	minTokenLife = time.Minute
	maxTokenLife = 365 * 24 * time.Hour
)

// Tokens lists the account's enrolment tokens, the newest first, without their secrets.
func (s *Service) Tokens(ctx context.Context, p tenant.Principal) ([]api.EnrolmentTokenInfo, error) {
	out := []api.EnrolmentTokenInfo{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := store.In[store.EnrolToken](tx.Tenant(p.AccountID)).List(store.Desc("created_at"))
		for _, r := range rows {
			out = append(out, viewToken(r))
		}
		return err
	})
	return out, err
}

func viewToken(r store.EnrolToken) api.EnrolmentTokenInfo {
	return api.EnrolmentTokenInfo{ID: r.ID, Description: r.Description, UsesLeft: r.UsesLeft, ExpiresAt: r.ExpiresAt, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt}
}

// CreateToken makes an enrolment token. Its text is in this answer and nowhere else: the broker keeps a hash.
func (s *Service) CreateToken(ctx context.Context, p tenant.Principal, in api.EnrolmentTokenWrite) (api.EnrolmentTokenInfo, error) {
	life := time.Duration(in.ExpireSeconds) * time.Second
	fields := map[string]string{}
	if in.Uses < 1 || in.Uses > maxTokenUses {
		fields["uses"] = "1 to " + strconv.Itoa(maxTokenUses)
	}
	if in.ExpireSeconds > int64(maxTokenLife/time.Second) || life < minTokenLife {
		fields["expire_seconds"] = "from a minute (60) to a year (31536000)"
	}
	if len(in.Description) > 128 || !printable(in.Description) {
		fields["description"] = "at most 128 printable characters"
	}
	if len(fields) > 0 {
		return api.EnrolmentTokenInfo{}, problem.InvalidFields(fields)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	hash := sha256.Sum256(secret)
	var row store.EnrolToken
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row = store.EnrolToken{Description: in.Description, SecretHash: hash[:], UsesLeft: in.Uses, ExpiresAt: tx.Now().Add(life), CreatedBy: p.Actor(), CreatedByID: p.UserID}
		if err := store.In[store.EnrolToken](t).Insert(&row); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "enrolment-token.created", Actor: p.Actor(), Subject: row.ID,
			Detail: map[string]string{"uses": strconv.Itoa(in.Uses), "expires": row.ExpiresAt.Format(time.RFC3339), "description": in.Description}})
	})
	if err != nil {
		return api.EnrolmentTokenInfo{}, err
	}
	out := viewToken(row)
	b := base64.RawURLEncoding
	out.Token = api.TokenPrefix + "." + row.ID + "." + b.EncodeToString(secret) + "." + b.EncodeToString(s.CAPin)
	return out, nil
}

// DeleteToken withdraws an enrolment token at once; machines that used it stay enrolled.
func (s *Service) DeleteToken(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := store.In[store.EnrolToken](t).Delete(id); err != nil {
			return missing(err, "enrolment token")
		}
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "enrolment-token.deleted", Actor: p.Actor(), Subject: id})
	})
}
