// Package console serves the pages that people use. It turns requests into calls of the broker's services and their
// answers into models of package ui; it holds no state and makes no decision of its own.
//
// Every page works as plain links and forms: a POST answers 303 to the page to look at next. Each route declares the
// operation that it performs, checked once against the role matrix before its handler runs; the pages leave out what
// the viewer may not do, and the server refuses it all the same.
package console

import (
	"log/slog"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/feed"
	"keyward/rbac"
	"keyward/ui"
)

// Deps are the services behind the pages.
type Deps struct {
	Accounts     Accounts
	Inventory    Inventory
	Policies     Policies
	Previews     Previews
	Requests     Requests
	Audit        Audit
	Exports      Exports
	Recovery     Recovery
	DeepSecurity DeepSecurity
	Feed         *feed.Hub
	Access       Access
	Clock        func() time.Time
	Logger       *slog.Logger
}

// Access decides what a role may do; *rbac.Enforcer does.
type Access interface {
	Allowed(role string, op rbac.Operation) bool
}

// console is the pages with what they need.
type console struct {
	Deps
	streams feed.Quota
}

// Mount registers every page. The app must be configured with Immutable, since values of requests are kept.
func Mount(app *fiber.App, d Deps) {
	c := &console{Deps: d, streams: feed.Quota{PerOwner: sessionStreams, PerAccount: accountStreams, Total: maxStreams}}
	app.Get(ui.AssetPattern, c.open(serveAsset))
	for _, r := range openRoutes {
		app.Add(r.Method, r.Path, c.open(r.Handle))
	}
	for _, r := range Routes() {
		app.Add(r.Method, r.Path, c.guarded(r))
	}
}
