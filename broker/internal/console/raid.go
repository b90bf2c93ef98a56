package console

import (
	"net/http"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

const raidHelp = "The size of a RAID 0 set is its smallest member times the number of members. The set is encrypted and unlocked as a whole, " +
	"each member under a key of its own; without one of them nothing of it can be read. On Windows a simple or striped dynamic disk holds at most 2 TiB a disk, 64 TiB and 32 disks a volume."

func newRAIDSet(v *visit) error {
	page, err := v.raidPage(api.Device{Platform: "linux", FileSystem: "ext4", KeyBits: 256, Status: api.DeviceNotConfigured, MemberIDs: []string{}})
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "raid-set", page)
}

func showRAIDSet(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	if !isRAID(d) {
		return problem.NotFound("RAID set")
	}
	page, err := v.raidPage(d)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "raid-set", page)
}

func (v *visit) raidPage(d api.Device) (ui.RAIDSetPage, error) {
	a := allowedOn(d)
	write := v.may(rbac.RAIDSetsWrite) && (d.ID == "" || a.CanEditKeyBits)
	page := ui.RAIDSetPage{
		Action: "/inventory/raid-sets/new", Version: d.Version, CanWrite: write, Help: raidHelp, Submit: "Save",
		Back: ui.Link{Text: "Devices", URL: "/inventory/devices"},
	}
	title := "Create RAID Set"
	if d.ID != "" {
		title, page.Action = "Edit RAID Set: "+d.Name, deviceURL(d)
		status := ui.DeviceBadge(string(d.Status))
		page.Status, page.Detail, page.Buttons = &status, d.StatusDetail, v.raidButtons(d, a)
		policy, instance := v.link(rbac.PoliciesRead, d.PolicyName, "/policies/", d.PolicyID), v.link(rbac.RunningInstancesRead, d.InstanceName, "/instances/", d.InstanceID)
		page.Facts = []ui.Pair{
			{Label: "Size", Value: size(d.Size)},
			{Label: "Holds", Value: d.Contents},
			{Label: "Seen by", Value: instance.Text, URL: instance.URL},
			{Label: "Policy", Value: policy.Text, URL: policy.URL},
		}
	}
	if d.ID != "" && !write {
		title = "RAID Set: " + d.Name
	}
	page.Frame = v.frame(title, "Here you can join devices of one machine to a RAID 0 set.", crumbDevices...)
	page.Fields = []ui.Field{
		{Name: "name", Label: "RAID Array ID", Type: "text", Value: d.Name, Required: true, MaxLength: 64, Disabled: !write,
			Help: "Unique, without any of ! @ # $ ( % ^ & * + )"},
		{Name: "description", Label: "Description", Type: "textarea", Value: d.Description, MaxLength: 1024, Disabled: !write},
		{Name: "mount_point", Label: "Mount point", Type: "text", Value: d.MountPoint, Required: true, MaxLength: 4096, Disabled: !write,
			Help: "A path such as /mnt/secure, or a drive letter such as X."},
		platformField(d.Platform, d.FileSystem, !write),
		keySizeField(d.KeyBits, !write),
	}
	image, err := v.imageField(d.ImageID, !write)
	if err != nil {
		return page, err
	}
	page.Fields = append(page.Fields, image)
	return page, v.raidMembers(&page, d, write)
}

// raidMembers offers devices that can join, or lists the members when they cannot change any more.
func (v *visit) raidMembers(page *ui.RAIDSetPage, d api.Device, write bool) error {
	all, _, err := v.Inventory.Devices(v.ctx, v.p, inventory.DeviceQuery{})
	if err != nil {
		return err
	}
	for _, m := range all {
		member := slices.Contains(d.MemberIDs, m.ID)
		switch {
		case isRAID(m):
		case !write && member:
			page.Members = append(page.Members, v.deviceRow(m))
		case write && (member || m.RAIDSetID == "" && (m.Status == api.DeviceNotConfigured || m.Status == api.DeviceConfigured)):
			page.Candidates = append(page.Candidates, ui.Candidate{ID: m.ID, Name: m.Name, Checked: member,
				Detail: size(m.Size) + ", " + m.Provider + ", seen by " + m.InstanceName + ", " + string(m.Status)})
		}
	}
	return nil
}

func (v *visit) raidButtons(d api.Device, a inventory.Actions) []ui.Button {
	buttons := v.deviceButtons(d, a)
	return slices.DeleteFunc(buttons, func(b ui.Button) bool { return b.Text == "Copy Configuration from Another Device" })
}

func (v *visit) raidForm() (api.RAIDSetWrite, error) {
	in := api.RAIDSetWrite{Name: v.text("name"), Description: v.text("description"), MountPoint: v.text("mount_point"),
		KeyBits: keyBitsOf(v.form("key_bits")), ImageID: v.form("image_id"), MemberIDs: v.forms("member")}
	in.Platform, in.FileSystem = platformOf(v.form("platform"))
	var err error
	in.Version, err = v.version()
	return in, err
}

func createRAIDSet(v *visit) error {
	in, err := v.raidForm()
	if err != nil {
		return err
	}
	if _, err = v.Inventory.CreateRAIDSet(v.ctx, v.p, in); err == nil {
		return v.to("/inventory/devices", "created")
	}
	return v.raidAgain(err, api.Device{Status: api.DeviceNotConfigured}, in)
}

func saveRAIDSet(v *visit) error {
	in, err := v.raidForm()
	if err != nil {
		return err
	}
	if err = v.Inventory.UpdateRAIDSet(v.ctx, v.p, v.id(), in); err == nil {
		return v.to("/inventory/devices", "saved")
	}
	d, found := v.Inventory.Device(v.ctx, v.p, v.id())
	if found != nil {
		return found
	}
	return v.raidAgain(err, d, in)
}

func (v *visit) raidAgain(cause error, d api.Device, in api.RAIDSetWrite) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	d.Name, d.Description, d.MountPoint, d.KeyBits, d.ImageID = in.Name, in.Description, in.MountPoint, in.KeyBits, in.ImageID
	d.Platform, d.FileSystem, d.MemberIDs = in.Platform, in.FileSystem, append([]string{}, in.MemberIDs...)
	page, err := v.raidPage(d)
	if err != nil {
		return err
	}
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "raid-set", page)
}
