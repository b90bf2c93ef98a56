package console

import (
	"net/http"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/rbac"
	"keyward/ui"
)

// fileSystems are what a device can be formatted with, by platform.
var fileSystems = []struct{ platform, fs, label string }{
	{"linux", "ext4", "Linux: ext4"}, {"linux", "ext3", "Linux: ext3"}, {"linux", "xfs", "Linux: XFS"},
	{"linux", "btrfs", "Linux: Btrfs"}, {"windows", "ntfs", "Windows: NTFS"}, {"windows", "fat32", "Windows: FAT32"},
}

// platformField is one control for platform and file system, since each file system belongs to one platform.
func platformField(platform, fs string, disabled bool) ui.Field {
	f := ui.Field{Name: "platform", Label: "Platform / file system", Type: "select", Disabled: disabled,
		Options: options(platform+":"+fs, ":", "Choose")}
	for _, o := range fileSystems {
		value := o.platform + ":" + o.fs
		f.Options = append(f.Options, ui.Option{Value: value, Label: o.label, Selected: value == platform+":"+fs})
	}
	return f
}

// platformOf reads the control of platformField.
func platformOf(value string) (platform, fs string) {
	for _, o := range fileSystems {
		if value == o.platform+":"+o.fs {
			return o.platform, o.fs
		}
	}
	return "", ""
}

func keySizeField(value int, disabled bool) ui.Field {
	return ui.Field{Name: "key_bits", Label: "Key size", Type: "select", Disabled: disabled,
		Options: options(bits(value), "128 bits", "AES 128 bits", "192 bits", "AES 192 bits (not NIST-approved for XTS)", "256 bits", "AES 256 bits"),
		Help:    "Fixed once the device is encrypted."}
}

func keyBitsOf(value string) int {
	return map[string]int{"128 bits": 128, "192 bits": 192, "256 bits": 256}[value]
}

func (v *visit) imageField(selected string, disabled bool) (ui.Field, error) {
	f := ui.Field{Name: "image_id", Label: "Image identity", Type: "select", Disabled: disabled,
		Options: options(selected, "", "None"), Help: "Only machines started from this image are given the key."}
	if !v.may(rbac.ImagesRead) {
		f.Options = keep(f.Options, selected)
		return f, nil
	}
	images, err := v.Inventory.Images(v.ctx, v.p)
	if err != nil {
		return f, err
	}
	for _, i := range images {
		f.Options = append(f.Options, ui.Option{Value: i.ID, Label: i.Name + " (" + i.Identity + ")", Selected: i.ID == selected})
	}
	f.Options = keep(f.Options, selected)
	return f, nil
}

func showDevice(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	if isRAID(d) {
		return v.http.Redirect(deviceURL(d), http.StatusSeeOther)
	}
	page, err := v.devicePage(d)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "device", page)
}

func (v *visit) devicePage(d api.Device) (ui.DevicePage, error) {
	a := allowedOn(d)
	write := v.may(rbac.DevicesWrite)
	title := "Edit Device: " + d.Name
	if !write {
		title = "Device: " + d.Name
	}
	page := ui.DevicePage{
		Frame:  v.frame(title, "Here you can say how a device is used; then it can be encrypted.", crumbDevices...),
		Status: ui.DeviceBadge(string(d.Status)), Detail: d.StatusDetail, Version: d.Version,
		Action: deviceURL(d), CanWrite: write && (a.CanEditName || a.CanConfigure), Back: ui.Link{Text: "Devices", URL: "/inventory/devices"},
		Fields: []ui.Field{
			{Name: "name", Label: "Name", Type: "text", Value: d.Name, Required: true, MaxLength: 64, Disabled: !write || !a.CanEditName},
			{Name: "description", Label: "Description", Type: "textarea", Value: d.Description, MaxLength: 1024, Disabled: !write || !a.CanEditName},
			platformField(d.Platform, d.FileSystem, !write || !a.CanEditKeyBits),
			{Name: "mount_point", Label: "Mount point", Type: "text", Value: d.MountPoint, MaxLength: 4096, Disabled: !write || !a.CanEditMount,
				Help: "A path such as /mnt/secure, or a drive letter such as X."},
			{Name: "access", Label: "Access", Type: "select", Disabled: !write || !a.CanEditMount,
				Options: options(string(d.Access), "", "Choose", string(api.AccessReadWrite), "Read/Write", string(api.AccessReadOnly), "Read Only")},
		},
		Facts: []ui.Pair{
			{Label: "Device identity", Value: d.Identity, Code: true},
			{Label: "Information", Value: d.Information},
			{Label: "Holds", Value: d.Contents},
			{Label: "Size", Value: size(d.Size)},
			{Label: "Provider", Value: d.Provider},
		},
		NoKey: "The key is made when the device is encrypted.",
	}
	page.Live = feed.TopicDevices
	if d.RAIDSetID != "" {
		page.Facts = append(page.Facts, ui.Pair{Label: "RAID set", Value: "Member of a RAID set", URL: "/inventory/raid-sets/" + d.RAIDSetID})
		page.CanWrite, page.ReadOnly = false, "This device belongs to a RAID set and is configured with it."
		for i := range page.Fields {
			page.Fields[i].Disabled = true
		}
	}
	if !write {
		page.ReadOnly = "Your role can view devices but not change them."
	}
	instance := v.link(rbac.RunningInstancesRead, d.InstanceName, "/instances/", d.InstanceID)
	page.Instance = []ui.Pair{{Label: "Seen by", Value: instance.Text, URL: instance.URL}}
	policy := v.link(rbac.PoliciesRead, d.PolicyName, "/policies/", d.PolicyID)
	page.Policy = []ui.Pair{{Label: "Policy", Value: policy.Text, URL: policy.URL}}
	var err error
	if page.Image, err = v.imageField(d.ImageID, !write || d.RAIDSetID != "" || !a.CanEditKeyBits && !a.CanRemapImage); err != nil {
		return page, err
	}
	v.keyPart(&page, d, write && d.RAIDSetID == "" && a.CanEditKeyBits)
	page.Buttons = v.deviceButtons(d, a)
	if d.Status == api.DeviceInUse && v.may(rbac.IntegrityChecksRun) {
		page.Check = "/inventory/devices/" + d.ID + "/check"
	}
	return page, nil
}

func (v *visit) keyPart(page *ui.DevicePage, d api.Device, choose bool) {
	if d.Key == nil {
		field := keySizeField(d.KeyBits, !choose)
		page.KeyField = &field
		return
	}
	page.Key = keyPairs(d.Key, v.exact(&d.Key.CreatedAt))
	if d.Rotation != nil {
		page.Rotation = v.rotationPairs(d.Rotation)
	}
}

func keyPairs(k *api.KeyInfo, created string) []ui.Pair {
	return []ui.Pair{
		{Label: "Cipher", Value: k.Cipher}, {Label: "Key size", Value: bits(k.Bits)}, {Label: "Mode", Value: k.Mode},
		{Label: "Key management", Value: k.Management}, {Label: "Hash", Value: k.Hash}, {Label: "Stored on", Value: k.StoredOn},
		{Label: "Volume UUID", Value: k.VolumeUUID, Code: k.VolumeUUID != ""}, {Label: "Created", Value: created},
	}
}

// deviceButtons are the actions that the status allows and the role permits.
func (v *visit) deviceButtons(d api.Device, a inventory.Actions) []ui.Button {
	var buttons []ui.Button
	add := func(can bool, op rbac.Operation, b ui.Button) {
		if can && v.may(op) {
			b.Dialog = true
			buttons = append(buttons, b)
		}
	}
	one := "?id=" + d.ID
	add(a.CanEncrypt, rbac.DevicesEncrypt, ui.Button{Text: "Encrypt", Icon: "lock", URL: "/inventory/devices/encrypt" + one, Primary: true})
	add(a.CanCancel, rbac.DevicesEncrypt, ui.Button{Text: "Cancel Encryption", Icon: "cross", URL: "/inventory/devices/" + d.ID + "/cancel"})
	add(a.CanCopyTo, rbac.DevicesWrite, ui.Button{Text: "Copy Configuration from Another Device", Icon: "copy", URL: "/inventory/devices/" + d.ID + "/copy"})
	add(a.CanExport, rbac.DevicesExport, ui.Button{Text: "Export", Icon: "download", URL: "/inventory/devices/export" + one})
	add(a.CanRotateKey && d.Rotation == nil && d.RAIDSetID == "", rbac.DevicesRotateKey, ui.Button{Text: "Rotate Key", Icon: "key", URL: "/inventory/devices/" + d.ID + "/rotate-key"})
	add(d.Rotation != nil, rbac.DevicesRotateKey, ui.Button{Text: "Cancel Rotation", Icon: "cross", URL: "/inventory/devices/" + d.ID + "/cancel-rotation"})
	add(a.CanUnconfigure, rbac.DevicesUnconfigure, ui.Button{Text: "Unconfigure", Icon: "cross", URL: "/inventory/devices/" + d.ID + "/unconfigure", Danger: true})
	add(a.CanDelete, rbac.DevicesDelete, ui.Button{Text: "Delete", Icon: "trash", URL: "/inventory/devices/delete" + one, Danger: true})
	return buttons
}

// deviceForm applies the form to the device as it is; what the form does not carry, because its control is off, stays.
func (v *visit) deviceForm(d api.Device) (api.DeviceWrite, error) {
	in := api.DeviceWrite{Name: d.Name, Description: d.Description, Platform: d.Platform, FileSystem: d.FileSystem,
		MountPoint: d.MountPoint, Access: d.Access, KeyBits: d.KeyBits, ImageID: d.ImageID}
	set := func(name string, to *string) {
		if v.has(name) {
			*to = v.text(name)
		}
	}
	set("name", &in.Name)
	set("description", &in.Description)
	set("mount_point", &in.MountPoint)
	set("image_id", &in.ImageID)
	if v.has("platform") {
		in.Platform, in.FileSystem = platformOf(v.form("platform"))
	}
	if v.has("access") {
		in.Access = api.Access(v.form("access"))
	}
	if v.has("key_bits") {
		in.KeyBits = keyBitsOf(v.form("key_bits"))
	}
	var err error
	in.Version, err = v.version()
	return in, err
}

func saveDevice(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	in, err := v.deviceForm(d)
	if err != nil {
		return err
	}
	if err = v.Inventory.Configure(v.ctx, v.p, d.ID, in); err == nil {
		return v.to(after(v, "/inventory/devices", deviceURL(d)), "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	d.Name, d.Description, d.Platform, d.FileSystem, d.MountPoint = in.Name, in.Description, in.Platform, in.FileSystem, in.MountPoint
	d.Access, d.KeyBits, d.ImageID = in.Access, in.KeyBits, in.ImageID
	page, err := v.devicePage(d)
	if err != nil {
		return err
	}
	if reason := fields["file_system"]; reason != "" && fields["platform"] == "" {
		fields["platform"] = reason
		delete(fields, "file_system")
	}
	one := []ui.Field{page.Image}
	rest := mark(fields, page.Fields, one)
	page.Image = one[0]
	if page.KeyField != nil && fields["key_bits"] != "" {
		page.KeyField.Error = sentence(fields["key_bits"])
		rest = slices.DeleteFunc(rest, func(s string) bool { return s == "key_bits: "+fields["key_bits"] })
	}
	explain(flash, rest)
	page.Flash = flash
	return v.show(status, "device", page)
}
