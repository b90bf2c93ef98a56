package ui

// ExportsPage lists the exports of keys that people agree on.
type ExportsPage struct {
	Frame
	Rows    []ExportRow
	Empty   Empty
	Buttons []Button
}

// ExportRow is one of them.
type ExportRow struct {
	URL     string
	Status  Badge
	Agreed  string // "1 of 2"
	What    string
	AskedBy string
	Reason  string
	Asked   When
	Expires When
}

// ExportPage shows one export, and takes what its viewer may do with it.
type ExportPage struct {
	Frame
	Status    Badge
	Detail    string
	Facts     []Pair
	Devices   []Pair
	Approvals Approvals
	// Forms are what the viewer may do.
	Forms  []ExportForm
	Closed string
	Back   Link
}

// RecoveryPage shows the account's recovery key and which machines are ready for a time without the broker.
type RecoveryPage struct {
	Frame
	Key      []Pair // empty without one
	Counters []Counter
	Machines []RecoveryMachineRow
	Buttons  []Button
	Empty    Empty
}

// RecoveryMachineRow is a machine with its envelope.
type RecoveryMachineRow struct {
	Instance          Link
	Status            Badge
	Issued, Confirmed When
}

// ExportForm is one thing to do with an export.
type ExportForm struct {
	Title, Text, Action, Submit string
	Version                     int64
	Fields                      []Field
	Download                    bool
	Danger                      bool
	// Also is a further button of the form.
	Also *FormAction
}
