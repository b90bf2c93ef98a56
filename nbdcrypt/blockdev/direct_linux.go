package blockdev

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fileAlign is what direct I/O on a file is aligned to where the kernel does not say (before Linux 6.1): no file system has
// larger blocks than pages.
const fileAlign = 4096

// largestAlign is more than any device needs; a kernel that asks for more is not believed.
const largestAlign = 64 << 10

// openDirect opens f's file again with O_DIRECT, and returns the alignment in bytes that offset, length and memory of a
// request must have. It tries a read, because some file systems accept the flag and refuse the requests.
func openDirect(f *os.File, isBlock, readOnly bool, size int64, blockSize int) (*os.File, int, error) {
	align, err := directAlign(f, isBlock, blockSize)
	if err != nil {
		return nil, 0, err
	}
	if size == 0 || size%int64(align) != 0 {
		return nil, 0, fmt.Errorf("its size of %d bytes is not a multiple of %d: %w", size, align, errors.ErrUnsupported)
	}
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	var direct *os.File
	err = control(f, func(fd int) error {
		// By descriptor: the name may belong to another file by now.
		direct, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("open for direct I/O: %w", err)
	}
	probe := make([]byte, 2*align)
	probe = probe[(align-misaligned(probe, align))%align:][:align]
	if _, err := direct.ReadAt(probe, 0); err != nil {
		direct.Close()
		return nil, 0, fmt.Errorf("try direct I/O: %w", err)
	}
	return direct, align, nil
}

// directAlign asks statx(2), and takes what has always held where the kernel does not know.
func directAlign(f *os.File, isBlock bool, blockSize int) (align int, err error) {
	align = fileAlign
	if isBlock {
		align = blockSize
	}
	var st unix.Statx_t
	err = control(f, func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	})
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return align, nil
	}
	if st.Dio_offset_align == 0 {
		return 0, fmt.Errorf("the file system has no direct I/O: %w", errors.ErrUnsupported)
	}
	align = int(max(st.Dio_offset_align, st.Dio_mem_align, 512))
	if align > largestAlign || align&(align-1) != 0 {
		return 0, fmt.Errorf("the kernel asks for direct I/O in units of %d bytes: %w", align, errors.ErrUnsupported)
	}
	return align, nil
}

func misaligned(p []byte, align int) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(p))) & uintptr(align-1))
}
