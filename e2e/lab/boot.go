package lab

import (
	"fmt"
	"os"

	"github.com/google/uuid"
)

// OtherBoot has a process run as in another boot of a machine with the same disk: it reads a boot ID of its own, kept in
// file, does not have what is mounted below a folder of this boot, nor anybody's volumes, and what it mounts nobody else sees
// (MountedFor does).
func OtherBoot(p *Process, file, below string) error {
	if err := os.WriteFile(file, []byte(uuid.NewString()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write another boot ID: %w", err)
	}
	p.Args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c",
		// A mount that stayed would keep the volume of another agent busy, also one of another suite that runs at the same time.
		`while read -r _ _ _ _ point rest; do case "$point $rest" in "$1"/*|*" - fuse"*|*" /dev/loop"*|*" /dev/nbd"*) umount -l "$point" 2>/dev/null;; esac; done </proc/self/mountinfo
		mount --bind "$0" /proc/sys/kernel/random/boot_id && shift && exec "$@"`, file, below}, p.Args...)
	return nil
}
