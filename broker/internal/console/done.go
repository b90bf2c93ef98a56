package console

import "keyward/ui"

// doneMessages are what a page says after a form succeeded. A cookie carries only the key, so nothing that a person or
// a machine wrote travels in it.
var doneMessages = map[string]ui.Flash{
	"approved":                  good("The key request was approved.", "The machine collects the key with its next call."),
	"denied":                    good("The key request was denied.", ""),
	"revoking":                  good("Revocation has started.", "The machine gives the key up when it hears of it, at the latest when its lease ends."),
	"assigned":                  good("The device was assigned to the policy.", "The request was judged again by that policy."),
	"saved":                     good("Saved.", ""),
	"created":                   good("Created.", ""),
	"deleted":                   good("Deleted.", ""),
	"encrypting":                good("Encryption was ordered.", "The machine starts when its agent asks for work."),
	"cancelled":                 good("Encryption was cancelled.", ""),
	"unconfigured":              good("The device was unconfigured and its key destroyed.", ""),
	"copied":                    good("The configuration was copied.", "Check the fields, then save."),
	"cleared":                   good("The machine counts as the only one of its identity.", ""),
	"factor-shown":              good("The code was right.", "It counts for five minutes."),
	"factor-removed":            good("The second factor was removed.", ""),
	"factor-reset":              good("The second factor was reset.", "The user's sessions were ended."),
	"seconded":                  good("Your approval was recorded.", "The policy needs further people."),
	"rotating":                  good("A new key was made, and the job that writes the data anew.", "The volume goes on with the key that it has until the job is done."),
	"rotation-cancelled":        good("The rotation was cancelled and its key destroyed.", ""),
	"export-asked":              good("The export was asked for.", "It can be fetched on this page when enough people agree."),
	"export-approved":           good("Your approval was recorded.", ""),
	"export-denied":             good("The export was denied.", ""),
	"export-cancelled":          good("The export was cancelled.", ""),
	"password":                  good("The password was changed.", "Your other sessions were ended."),
	"certificate-revoked":       good("The machine's certificate was revoked.", "Its calls are refused from now on."),
	"image-certificate-revoked": good("The image's certificate was revoked.", ""),
	"key-accepted":              good("The other key was accepted.", "It takes over when that machine asks again."),
	"key-refused":               good("The other key was refused.", ""),
	"session-ended":             good("The session was ended.", ""),
	"checking":                  good("The machine was asked for fresh evidence.", "Its answer is judged within moments; the page shows when."),
	"ignored":                   good("The failed check is ignored.", "The machine keeps the key until it complies again."),
	"archives-deleted":          good("The archives were deleted.", "Signed tombstones stay in their place."),
	"dismissed":                 good("Put aside.", ""),
}

func good(title, text string) ui.Flash {
	return ui.Flash{Tone: ui.ToneGood, Title: title, Text: text}
}
