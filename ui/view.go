package ui

// Frame is what every page has around its content. A page model embeds it.
type Frame struct {
	Title string
	// Intro says in a sentence what the page is for.
	Intro  string
	Crumbs []Link // the way here, without the page itself
	Nav    []NavGroup
	// Viewer is who is logged on; nil on pages before log-on.
	Viewer *Viewer
	// CSRF is put into every form that changes something.
	CSRF  string
	Flash *Flash
	// Theme is "light", "dark" or empty for the system's choice.
	Theme string
	// Collapsed shrinks the side bar to its icons.
	Collapsed bool
	// Here is the page's own path and query, to return to after a preference was changed.
	Here string
	// Live names the topics of changes on which the page's live parts are fetched anew; empty for none.
	Live string
}

// Viewer is the person who is logged on.
type Viewer struct{ Name, Role, Account string }

// Link is a text with the address it leads to.
type Link struct{ Text, URL string }

// NavGroup is one item of the main menu: a link of its own, or a heading over links.
type NavGroup struct {
	Title, Icon string
	URL         string
	Current     bool
	Items       []NavItem
}

// NavItem is a link below a heading of the main menu.
type NavItem struct {
	Title, Icon string
	URL         string
	Current     bool
}

// Tone is the mood of a status. Tones differ by icon and text as well as by colour.
type Tone string

// The tones.
const (
	ToneGood Tone = "good"
	ToneBad  Tone = "bad"
	ToneWarn Tone = "warn"
	ToneInfo Tone = "info"
	ToneIdle Tone = "idle"
)

// Badge is a status: icon, text and tone.
type Badge struct {
	Text string
	Icon string
	Tone Tone
}

// Flash is a message about what has just been done or refused, with the next step.
type Flash struct {
	Tone  Tone
	Title string
	Text  string
	Hint  string
}

// Icon is the picture of the message's tone.
func (f Flash) Icon() string { return toneIcons[f.Tone] }

// When is a time as people read it, with the exact time for machines and for the pointer.
type When struct {
	Text  string // "12 minutes ago", or the account's format when older
	Exact string // in the account's zone and format
	ISO   string // RFC 3339
}

// Field is one labelled control of a form.
type Field struct {
	Name, Label string
	// Type is text, password, email, number, search, datetime-local, textarea, select, checkbox or static.
	Type  string
	Value string
	// Help explains valid values; Error says what is wrong with this one.
	Help, Error  string
	Required     bool
	Checked      bool
	Disabled     bool
	MaxLength    int
	Min, Max     string
	Autocomplete string
	Options      []Option
	// Match is the text that must be typed here before the form's button works, for confirmations.
	Match string
	// Strength shows the live password meter below the field.
	Strength bool
}

// ID is the control's element ID.
func (f Field) ID() string { return "f-" + f.Name }

// Describes lists the elements that explain the control, for aria-describedby.
func (f Field) Describes() string {
	var ids string
	if f.Help != "" {
		ids = f.ID() + "-help"
	}
	if f.Error != "" {
		if ids != "" {
			ids += " "
		}
		ids += f.ID() + "-error"
	}
	return ids
}

// Option is a choice of a select field.
type Option struct {
	Value, Label string
	Selected     bool
}

// Pair is a line of a description list. A value with a URL is a link; several lines are kept apart.
type Pair struct {
	Label string
	Value string
	URL   string
	Badge *Badge
	// Code shows the value in a fixed-width face with a button that copies it.
	Code bool
}

// Tab is one of several pages about the same thing.
type Tab struct {
	Title, URL string
	Current    bool
}

// Button is a link or a submit button that starts an action.
type Button struct {
	Text, Icon string
	// URL makes it a link; otherwise it submits the form around it.
	URL string
	// Dialog opens the link's page as a dialog where scripts run.
	Dialog  bool
	Primary bool
	Danger  bool
}

// Counter is a number of a page's heading line, for example "4 Key(s) Pending".
type Counter struct {
	Number int64
	Text   string
	Tone   Tone
	Icon   string
}

// Empty is shown in place of an empty table, with the one thing to do next.
type Empty struct {
	Icon, Title, Text string
	Action            *Button
}

// Chip is a filter that can be switched on or off by its link.
type Chip struct {
	Text, URL string
	Current   bool
}
