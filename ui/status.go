package ui

import "strings"

var toneIcons = map[Tone]string{
	ToneGood: "check", ToneBad: "alert", ToneWarn: "alert", ToneInfo: "info", ToneIdle: "info",
}

var keyBadges = map[string]Badge{
	"Pending":        {"Pending", "clock", ToneWarn},
	"Approved":       {"Approved", "check", ToneInfo},
	"Delivered":      {"Delivered", "key", ToneGood},
	"Denied":         {"Denied", "ban", ToneBad},
	"Revoke_Pending": {"Revoke pending", "clock", ToneWarn},
	"Revoke_Ignored": {"Revoke ignored", "eye", ToneWarn},
	"Revoking":       {"Revoking", "progress", ToneWarn},
	"Revoked":        {"Revoked", "lock", ToneBad},
	"Expired":        {"Expired", "clock", ToneIdle},
	"Failure":        {"Failure", "cross", ToneBad},
}

var integrityBadges = map[string]Badge{
	"Good":                 {"Good", "check", ToneGood},
	"Bad":                  {"Bad", "alert", ToneBad},
	"Failed":               {"Failed", "cross", ToneBad},
	"Unknown_DevPolicy":    {"Unknown", "unknown", ToneIdle},
	"Unknown_ImgPolicy":    {"Unknown", "unknown", ToneIdle},
	"Unknown_DevImgPolicy": {"Unknown", "unknown", ToneIdle},
	"Unknown_NoRules":      {"Unknown", "unknown", ToneIdle},
}

var unknownReasons = map[string]string{
	"Unknown_DevPolicy":    "device in no policy",
	"Unknown_ImgPolicy":    "image in no policy",
	"Unknown_DevImgPolicy": "device and image not in one policy",
	"Unknown_NoRules":      "policy without rules",
}

var deviceBadges = map[string]Badge{
	"Not configured":     {"Not configured", "minus", ToneIdle},
	"Configured":         {"Configured", "cog", ToneInfo},
	"Encryption pending": {"Encryption pending", "clock", ToneWarn},
	"Encrypting":         {"Encrypting", "progress", ToneWarn},
	"Encryption error":   {"Encryption error", "cross", ToneBad},
	"Encrypted":          {"Encrypted", "lock", ToneGood},
	"In-use":             {"In-use", "activity", ToneGood},
	"Undetected":         {"Undetected", "unknown", ToneIdle},
	"Device Missing":     {"Device Missing", "alert", ToneBad},
}

var ruleBadges = map[string]Badge{
	"Failed":        {"Failed", "cross", ToneBad},
	"Passed":        {"Passed", "check", ToneGood},
	"Informational": {"Informational", "info", ToneInfo},
}

var exportBadges = map[string]Badge{
	"Waiting":   {"Waiting", "clock", ToneWarn},
	"Approved":  {"Approved", "check", ToneInfo},
	"Fetched":   {"Fetched", "download", ToneGood},
	"Denied":    {"Denied", "ban", ToneBad},
	"Cancelled": {"Cancelled", "cross", ToneIdle},
	"Expired":   {"Expired", "clock", ToneIdle},
}

var jobBadges = map[string]Badge{
	"queued":    {"Waiting", "clock", ToneWarn},
	"running":   {"Running", "progress", ToneInfo},
	"done":      {"Done", "check", ToneGood},
	"failed":    {"Failed", "cross", ToneBad},
	"cancelled": {"Cancelled", "ban", ToneIdle},
}

var envelopeBadges = map[string]Badge{
	"current": {"Current", "check", ToneGood},
	"issued":  {"Given, not confirmed", "clock", ToneInfo},
	"former":  {"Out of date", "alert", ToneWarn},
	"none":    {"None", "minus", ToneIdle},
}

var gradeBadges = map[string]Badge{
	"hardware-signed": {"Hardware-signed", "policy", ToneGood},
	"cloud-signed":    {"Cloud-signed", "policy", ToneGood},
	"api-confirmed":   {"API-confirmed", "check", ToneInfo},
	"broker-observed": {"Seen by broker", "eye", ToneInfo},
	"self-reported":   {"Self-reported", "user", ToneIdle},
}

// KeyBadge is the badge of a key request's status.
func KeyBadge(status string) Badge { return badge(keyBadges, status) }

// IntegrityBadge is the badge of an integrity rating.
func IntegrityBadge(rating string) Badge { return badge(integrityBadges, rating) }

// IntegrityReason says why a rating of the Unknown family could not be better; empty for the others.
func IntegrityReason(rating string) string { return unknownReasons[rating] }

// DeviceBadge is the badge of a device's or RAID set's status.
func DeviceBadge(status string) Badge { return badge(deviceBadges, status) }

// RuleBadge is the badge of a rule's outcome.
func RuleBadge(status string) Badge { return badge(ruleBadges, status) }

// ExportBadge is the badge of an export's status.
func ExportBadge(status string) Badge { return badge(exportBadges, status) }

// JobBadge is the badge of a job's status.
func JobBadge(status string) Badge { return badge(jobBadges, status) }

// EnvelopeBadge is the badge of a machine's recovery envelope.
func EnvelopeBadge(state string) Badge { return badge(envelopeBadges, state) }

// GradeBadge is the badge of who vouches for a fact.
func GradeBadge(grade string) Badge { return badge(gradeBadges, grade) }

// badge shows a status that this release does not know by its own name, never as something good.
func badge(known map[string]Badge, status string) Badge {
	if b, ok := known[status]; ok {
		return b
	}
	if status == "" {
		return Badge{"None", "minus", ToneIdle}
	}
	return Badge{strings.ReplaceAll(status, "_", " "), "help", ToneIdle}
}
