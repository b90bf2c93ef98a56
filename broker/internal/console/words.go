package console

import (
	"fmt"
	"strconv"

	"keyward/broker/api"
)

func fileSystemName(fs string) string {
	switch fs {
	case "":
		return ""
	case "ntfs", "fat32", "xfs":
		return map[string]string{"ntfs": "NTFS", "fat32": "FAT32", "xfs": "XFS"}[fs]
	}
	return fs
}

func platformName(p string) string {
	switch p {
	case "linux":
		return "Linux"
	case "windows":
		return "Windows"
	}
	return p
}

func accessName(a api.Access) string {
	switch a {
	case api.AccessReadOnly:
		return "Read Only"
	case api.AccessReadWrite:
		return "Read/Write"
	}
	return string(a)
}

func actionName(a api.Action) string {
	switch a {
	case api.ActionApprove:
		return "Approve"
	case api.ActionManual:
		return "Manual Approve"
	case api.ActionDeny:
		return "Deny"
	}
	return string(a)
}

func bits(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n) + " bits"
}

// size is a device's size in the binary unit that keeps it readable.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n)/1024, "KiB"
	for _, next := range []string{"MiB", "GiB", "TiB", "PiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	return fmt.Sprintf("%.4g %s", value, unit)
}

// seconds writes a duration in its largest whole unit.
func seconds(n int64) string {
	for _, unit := range []struct {
		length int64
		name   string
	}{{86400, "day"}, {3600, "hour"}, {60, "minute"}} {
		if n >= unit.length && n%unit.length == 0 {
			return fmt.Sprintf("%d %s", n/unit.length, plural(n/unit.length, unit.name, unit.name+"s"))
		}
	}
	return fmt.Sprintf("%d %s", n, plural(n, "second", "seconds"))
}
