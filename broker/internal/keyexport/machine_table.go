package keyexport

import (
	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

type (
	arrow     = machine.Row[api.KeyExportStatus, Event, Ctx]
	condition = machine.Guard[Ctx]
)

const (
	unchanged api.KeyExportStatus = "(unchanged)"
	absent    api.KeyExportStatus = "" // not asked for yet
)

var (
	enough = machine.When("as many people as the account wants", func(c Ctx) bool { return c.Enough })
	own    = machine.When("the one who asked", func(c Ctx) bool { return c.Own })
	other  = machine.When("another person than asked", func(c Ctx) bool { return c.Other })
	same   = machine.When("the keys that were agreed on", func(c Ctx) bool { return c.Same })
)

func to(from []api.KeyExportStatus, e Event, next api.KeyExportStatus, when []condition, effects ...Effect) arrow {
	return arrow{From: from, Event: e, When: when, To: next, Effects: effects}
}

func at(s ...api.KeyExportStatus) []api.KeyExportStatus { return s }

func given(c ...condition) []condition { return c }

var open = at(api.ExportWaiting, api.ExportApproved)

var table = machine.Table[api.KeyExportStatus, Event, Ctx]{
	Subject: "export", Stay: unchanged,
	Rows: []arrow{
		to(at(absent), EventAsked, api.ExportApproved, given(enough), machine.Audit("key-export.asked"), machine.Audit("key-export.approved")),
		to(at(absent), EventAsked, api.ExportWaiting, nil, machine.Audit("key-export.asked")),
		to(at(api.ExportWaiting), EventAgreed, api.ExportApproved, given(other, enough), machine.Audit("key-export.approved")),
		to(at(api.ExportWaiting), EventAgreed, unchanged, given(other), machine.Audit("key-export.seconded")),
		to(at(api.ExportApproved), EventAgreed, unchanged, given(other), machine.Audit("key-export.seconded")),
		to(open, EventDenied, api.ExportDenied, given(other), machine.Do(EffectClose), machine.Audit("key-export.denied")),
		to(open, EventCancelled, api.ExportCancelled, given(own), machine.Do(EffectClose), machine.Audit("key-export.cancelled")),
		to(at(api.ExportApproved), EventFetched, api.ExportFetched, given(own, enough, same),
			machine.Do(EffectHandOver), machine.Do(EffectClose), machine.Audit("key-export.fetched")),
		to(open, EventTimeOver, api.ExportExpired, nil, machine.Do(EffectClose), machine.Audit("key-export.expired")),
	},
	Help: map[Event]string{
		EventAsked:     "an export is asked for once",
		EventAgreed:    "another Security Administrator agrees, while it waits or before it is fetched",
		EventDenied:    "another Security Administrator denies it before it is fetched; who asked cancels it",
		EventCancelled: "who asked cancels it before it is fetched; others deny it",
		EventFetched:   "who asked fetches it once, while enough people agree and the keys are the same; ask anew otherwise",
		EventTimeOver:  "an export that is over does not expire",
	},
}
