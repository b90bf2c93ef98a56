package console

import (
	"net/http"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/rbac"
	"keyward/ui"
)

const jobsPath = "/inventory/jobs"

func askRotate(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.rotatePage(d, ""))
}

func (v *visit) rotatePage(d api.Device, reason string) ui.FormPage {
	page := ui.FormPage{
		Frame: v.frame("Rotate Key", "", crumbDevices...), Action: deviceURL(d) + "/rotate-key",
		Lead: []string{"A new key is made and kept beside the one that the volume has. The volume goes on with that one until its machine has written the data anew; no agent of this release can do that yet, so the job waits.",
			"Exports and backups carry both keys."},
		Facts:  []ui.Pair{{Label: "Device", Value: d.Name}},
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", Value: reason, MaxLength: 1024, Help: "Kept in the audit log."}},
		Submit: "Rotate Key", Cancel: deviceURL(d),
	}
	if !allowedOn(d).CanRotateKey || d.Rotation != nil || d.RAIDSetID != "" {
		page.Disabled, page.Lead = true, nil
		page.Refused = []ui.Pair{{Label: d.Name, Value: "Only a device that is Encrypted or In-use, stands alone, and has no rotation that waits gets a new key."}}
	}
	return page
}

func rotateKey(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	if err = v.Inventory.RotateKey(v.ctx, v.p, d.ID, api.KeyRotationWrite{Reason: v.text("reason")}); err == nil {
		return v.to(deviceURL(d), "rotating")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.rotatePage(d, v.text("reason"))
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}

func askCancelRotation(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page := ui.FormPage{
		Frame: v.frame("Cancel Rotation", "", crumbDevices...), Action: deviceURL(d) + "/cancel-rotation",
		Lead:   []string{"The new key is destroyed. Nothing is written with it; the volume goes on with the key that it has."},
		Facts:  []ui.Pair{{Label: "Device", Value: d.Name}},
		Submit: "Cancel Rotation", Cancel: deviceURL(d), Disabled: d.Rotation == nil,
	}
	if page.Disabled {
		page.Lead, page.Refused = nil, []ui.Pair{{Label: d.Name, Value: "No rotation of its key waits."}}
	}
	return v.show(http.StatusOK, "form", page)
}

func cancelRotation(v *visit) error {
	if err := v.Inventory.CancelRotation(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/inventory/devices/"+v.id(), "rotation-cancelled")
}

// rotationPairs say how the rotation of a device's key stands.
func (v *visit) rotationPairs(r *api.KeyRotation) []ui.Pair {
	badge := ui.JobBadge(r.Status)
	pairs := []ui.Pair{{Label: "Rotation", Badge: &badge}, {Label: "Asked by", Value: r.AskedBy}, {Label: "Asked", Value: v.exact(&r.AskedAt)}}
	if r.Reason != "" {
		pairs = append(pairs, ui.Pair{Label: "Reason", Value: r.Reason})
	}
	waits := r.Waits
	if waits == "" {
		waits = "The machine has not answered yet."
	}
	return append(pairs, ui.Pair{Label: "Waits", Value: waits})
}

func showJobs(v *visit) error {
	jobs, err := v.Inventory.JobList(v.ctx, v.p, "")
	if err != nil {
		return err
	}
	page := ui.JobsPage{
		Frame: v.frame("Jobs", "Here you can view what machines were asked to do with devices.", crumbDevices[0]),
		Empty: ui.Empty{Icon: "progress", Title: "No jobs yet", Text: "Encrypting a device, or rotating its key, makes one."},
	}
	page.Live = feed.TopicDevices
	for _, j := range jobs {
		row := ui.JobRow{ID: j.ID, Status: ui.JobBadge(j.Status), Kind: jobKinds[j.Kind], Detail: j.Error, Device: v.link(rbac.DevicesRead, j.DeviceName, "/inventory/devices/", j.DeviceID),
			Instance: v.link(rbac.RunningInstancesRead, j.InstanceName, "/instances/", j.InstanceID), AskedBy: j.AskedBy, Asked: v.when(j.CreatedAt), Updated: v.when(j.UpdatedAt)}
		switch {
		case j.Status == "queued" && j.Waits != "":
			row.Detail = j.Waits
		case j.Status == "running" && j.Phase != "":
			row.Detail = j.Phase + ", " + strconv.Itoa(j.Percent) + " %"
		}
		if j.DeviceName == "" {
			row.Device = ui.Link{Text: "deleted"}
		}
		page.Rows = append(page.Rows, row)
	}
	return v.show(http.StatusOK, "jobs", page)
}

var jobKinds = map[string]string{"encrypt": "Encrypt", "rotate-key": "Rotate key"}
