package account

import (
	"context"
	_ "embed"
	"slices"
	"strings"
	_ "time/tzdata" // zones are there on machines without a zone database

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// zoneNames are the canonical zones of the IANA database, release 2025b, one a line.
//
//go:embed zones.txt
var zoneNames string

var zones = strings.Fields(zoneNames)

const defaultZone = "UTC"

// dateFormats are the layouts (of package time) that may be chosen; the first is the default.
var dateFormats = []string{
	"02 Jan 2006 15:04:05 MST",
	"2006-01-02 15:04:05 MST",
	"02.01.2006 15:04:05 MST",
	"02/01/2006 15:04:05 MST",
	"01/02/2006 03:04:05 PM MST",
	"Mon, 02 Jan 2006 15:04:05 MST",
}

// TimeChoices lists the zones and date layouts that may be set.
func (s *Service) TimeChoices() (zoneList, layouts []string) {
	return slices.Clone(zones), slices.Clone(dateFormats)
}

// SetTimeSettings changes the zone and format of what people of the account are shown. Logs stay in UTC.
func (s *Service) SetTimeSettings(ctx context.Context, p tenant.Principal, in api.TimeSettings) error {
	fields := map[string]string{}
	if !slices.Contains(zones, in.TimeZone) {
		fields["time_zone"] = "a name of the IANA database such as Europe/Berlin"
	}
	if !slices.Contains(dateFormats, in.DateFormat) {
		fields["date_format"] = "one of the offered formats"
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		table := store.Global[store.Account](tx)
		row, err := table.Get(p.AccountID)
		if err != nil {
			return missing(err, "account")
		}
		before := row.TimeZone + ", " + row.DateFormat
		row.TimeZone, row.DateFormat = in.TimeZone, in.DateFormat
		row.CheckNextAt = nil // the same wall clock is another moment now
		if err := table.Update(&row); err != nil {
			return missing(err, "account")
		}
		return audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: audit.Server, Event: "settings.time-changed", Actor: p.Actor(), Subject: row.ID,
			Detail: map[string]string{"before": before, "after": row.TimeZone + ", " + row.DateFormat}})
	})
}
