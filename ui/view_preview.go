package ui

// Preview is the part of a policy's page that says what the policy would do if it were saved.
type Preview struct {
	// CanRun is false for people who may not save policies.
	CanRun bool
	// Flash says why there is nothing to show, or what the figures leave out.
	Flash *Flash
	// Title, Lead and Counts are there once something was asked: what Rows and Counts are about.
	Title  string
	Lead   string
	Then   string // heading of the first column of counts: "Today", "Then"
	Now    string // and of the second: "If saved"
	Counts []PreviewCount
	Rows   []PreviewLine
	// None replaces the rows when there are none; More says how many are not listed.
	None string
	More string
}

// Asked says whether there is anything to show.
func (p Preview) Asked() bool { return p.Title != "" }

// PreviewCount is how many there are of an outcome.
type PreviewCount struct {
	Outcome   Badge
	Then, Now int64
}

// PreviewLine is one device on a machine, or one request.
type PreviewLine struct {
	Device   Link
	Instance Link
	Request  Link   // empty when the machine never asked
	Facts    string // how old the facts are
	Then     Badge
	ThenNote string
	Now      Badge
	NowNote  string
	Failed   []FailedRule
	// CheckURL checks the machine now, by the policy as it is saved; empty where there is nothing to take away.
	CheckURL string
}

// FailedRule is a rule that decides an outcome.
type FailedRule struct {
	Rule, Condition, Actual string
	Grade                   *Badge
}

var outcomeBadges = map[string]Badge{
	"approved":      {"Approved", "check", ToneGood},
	"waits":         {"Waits", "clock", ToneWarn},
	"denied":        {"Denied", "ban", ToneBad},
	"keeps":         {"Keeps its key", "key", ToneGood},
	"revoked":       {"Revoked when checked", "lock", ToneBad},
	"revoked-later": {"Revoked after the grace", "lock", ToneBad},
	"unknown":       {"Unknown", "unknown", ToneIdle},
}

// OutcomeBadge is the badge of what a policy would do.
func OutcomeBadge(outcome string) Badge { return badge(outcomeBadges, outcome) }
