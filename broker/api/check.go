package api

import "time"

// The schedules of integrity checks.
const (
	ScheduleDaily  = "daily"
	ScheduleWeekly = "weekly"
)

// CheckSettings say when the account's delivered keys are judged again, for every policy that has checks enabled.
type CheckSettings struct {
	// Schedule is "daily" or "weekly"; empty means that nothing is scheduled.
	Schedule string `json:"schedule,omitempty" enum:",daily,weekly"`
	// Weekday is the day of a weekly schedule, in lower case.
	Weekday string `json:"weekday,omitempty" enum:",monday,tuesday,wednesday,thursday,friday,saturday,sunday"`
	// Time is the wall clock of the account's zone, "15:04".
	Time string `json:"time,omitempty" maxLength:"5"`
	// RetrySeconds is the period for key request attempts: how long a key that a check took is given again once the machine
	// complies. 0 means that it is not.
	RetrySeconds int64 `json:"retry_seconds" minimum:"0" maximum:"2592000"`
}

// CheckSchedule is the settings with what came and what comes of them.
type CheckSchedule struct {
	CheckSettings
	// TimeZone is the account's.
	TimeZone string     `json:"time_zone"`
	NextAt   *time.Time `json:"next_at,omitempty"`
	LastAt   *time.Time `json:"last_at,omitempty"`
	// Waiting are delivered keys whose machine has not answered the last scheduled check; Overdue those it should have.
	Waiting int64 `json:"waiting"`
	Overdue int64 `json:"overdue"`
	// Policies are those with checks enabled.
	Policies int64 `json:"policies"`
}

// CheckAsked answers who wants a machine checked now.
type CheckAsked struct {
	InstanceID string    `json:"instance_id"`
	AskedAt    time.Time `json:"asked_at"`
	// Requests are the open key requests that the machine's answer will be judged for.
	Requests int64 `json:"requests"`
}

// Notice is something that happened by itself and that people should know.
type Notice struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"` // for example "integrity-failed"
	At         time.Time `json:"at"`
	RequestID  string    `json:"request_id,omitempty"`
	InstanceID string    `json:"instance_id,omitempty"`
	Instance   string    `json:"instance,omitempty"`
	DeviceID   string    `json:"device_id,omitempty"`
	Device     string    `json:"device,omitempty"`
	Text       string    `json:"text"`
	// ExportID is the export that waits for people, of kind "export-waits"; this notice ends with the wait, and is not put aside.
	ExportID string `json:"export_id,omitempty"`
}

// NoticeList are the notices that nobody has put aside, newest first, at most 100.
type NoticeList struct {
	Notices []Notice `json:"notices"`
	Total   int64    `json:"total"`
}
