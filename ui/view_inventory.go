package ui

// InstancePage shows one machine.
type InstancePage struct {
	Frame
	// Suspicion says why the machine may exist twice; Clear takes it back.
	Suspicion string
	Clear     *Button
	Status    Badge
	Facts     []Pair
	Identity  []Pair // key and certificate
	// Warning is why a person should look at the identity; Decide are the buttons for it.
	Warning string
	Decide  []Button
	Buttons []Button
	Devices []DeviceRow
	Check   string // where a check is asked for
	Empty   Empty
	Back    Link
}

// ImagesPage lists images.
type ImagesPage struct {
	Frame
	Search Field
	Rows   []ImageRow
	Pager  Pager
	Empty  Empty
}

// ImageRow is one image of the list.
type ImageRow struct {
	Image     Link
	Identity  string
	Provider  string
	Policies  []Link
	Instances int64
}

// ImagePage edits one image.
type ImagePage struct {
	Frame
	Action    string
	Fields    []Field
	Facts     []Pair
	Policies  []Link
	Instances []InstanceRow
	Pager     Pager
	CanWrite  bool
	Buttons   []Button
	Back      Link
}

// InstanceRow is a machine in a list.
type InstanceRow struct {
	Instance Link
	Status   Badge
	Location string
	LastSeen When
}

// DevicesPage lists devices and RAID sets.
type DevicesPage struct {
	Frame
	Search  Field
	Status  string
	Chips   []Chip
	Rows    []DeviceRow
	Actions []DeviceAction
	Pager   Pager
	Empty   Empty
	Create  *Button // Create RAID set
}

// DeviceRow is one device of a list.
type DeviceRow struct {
	ID       string
	Device   Link
	Identity string
	Size     string
	Status   Badge
	Detail   string
	Mount    string
	Policy   Link
	Instance Link
	RAID     bool
	// Allows lists the actions that the device's status allows, space separated.
	Allows string
}

// DeviceAction is a button that acts on the chosen rows. It leads to a page that asks for confirmation.
type DeviceAction struct {
	Name       string // as in DeviceRow.Allows
	Text, Icon string
	URL        string
	Danger     bool
}

// DevicePage edits one device.
type DevicePage struct {
	Frame
	Status   Badge
	Detail   string
	Version  int64
	Action   string
	Fields   []Field // Device Information
	Facts    []Pair
	Policy   []Pair
	Image    Field
	Instance []Pair
	Key      []Pair
	// Rotation is how the rotation of its key stands; empty without one.
	Rotation []Pair
	KeyField *Field // the key size while it can still be chosen
	NoKey    string
	CanWrite bool
	ReadOnly string // why nothing can be changed
	Check    string // where a check of its machine is asked for
	Buttons  []Button
	Back     Link
}

// JobsPage lists what machines were asked to do.
type JobsPage struct {
	Frame
	Rows  []JobRow
	Empty Empty
}

// JobRow is one job.
type JobRow struct {
	ID       string
	Status   Badge
	Detail   string // how far it is, why it waits or why it failed
	Kind     string
	Device   Link
	Instance Link
	AskedBy  string
	Asked    When
	Updated  When
}

// RAIDSetPage creates or edits a RAID 0 set.
type RAIDSetPage struct {
	Frame
	Action     string
	Version    int64
	Fields     []Field
	Candidates []Candidate
	Members    []DeviceRow // shown when members can no longer change
	Help       string
	CanWrite   bool
	Buttons    []Button
	Back       Link
	Submit     string
	Status     *Badge
	Detail     string // what explains the status
	Facts      []Pair
}

// Candidate is a row of a picker: a check box with what it stands for.
type Candidate struct {
	ID, Name string
	Detail   string
	Checked  bool
	// Note says where a device comes from when choosing it moves it.
	Note string
	// Locked shows the row without letting it be changed.
	Locked bool
}
