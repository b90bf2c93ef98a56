package main

import (
	"context"
	"crypto/aes"
	"crypto/rand"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	oracle "golang.org/x/crypto/xts"

	"keyward/nbdcrypt/xts"
)

// xtsRow is one measurement of a sector cipher. Fraction is throughput over what the processor's AES units could do at
// the kernel's vector width, measured beside each window; 0 where there is no such bound.
type xtsRow struct {
	Bench    string  `json:"bench"`
	Kernel   string  `json:"kernel"`
	Bits     int     `json:"bits"`
	Op       string  `json:"op"`
	Sector   int     `json:"sector"`
	Batch    bool    `json:"batch"` // 64 KiB a call, else one sector
	GBs      float64 `json:"gb_s"`
	Fraction float64 `json:"fraction"`
}

var xtsHeader = []string{"kernel", "AES bits", "op", "sector", "per call", "GB/s", "of bound"}

func (r xtsRow) print(out *report) {
	call := "1 sector"
	if r.Batch {
		call = "64 KiB"
	}
	fraction := "-"
	if r.Fraction > 0 {
		fraction = fmt.Sprintf("%.3f", r.Fraction)
	}
	out.row(xtsHeader, r, r.Kernel, strconv.Itoa(r.Bits), r.Op, strconv.Itoa(r.Sector), call, fmt.Sprintf("%.2f", r.GBs), fraction)
}

const (
	xtsWorkingSet = 64 << 10
	rooflineTurns = 3000
	xtsWindow     = 400 * time.Microsecond
)

// benchXTS measures every kernel in windows of about a millisecond, each set between two runs of the roofline, so that
// a busy neighbour slows both.
func benchXTS(ctx context.Context, o options) error {
	windows := 61
	if o.quick {
		windows = 5
	}
	for _, kernel := range xts.Kernels() {
		for _, bits := range []int{128, 192, 256} {
			for _, sector := range []int{512, 4096, 65536} {
				for _, batch := range []bool{true, false} {
					if sector == 65536 && batch {
						continue // one sector is 64 KiB
					}
					for _, op := range []string{"encrypt", "decrypt"} {
						if err := ctx.Err(); err != nil {
							return err
						}
						row, err := measureKernel(kernel, bits, sector, batch, op, windows)
						if err != nil {
							return err
						}
						row.print(o.out)
					}
				}
			}
		}
	}
	for _, bits := range []int{128, 256} {
		for _, sector := range []int{512, 4096} {
			measureOracle(bits, sector, windows).print(o.out)
		}
	}
	measureOpenSSL(ctx, o)
	return nil
}

func measureKernel(kernel string, bits, sector int, batch bool, op string, windows int) (xtsRow, error) {
	key := make([]byte, bits/4)
	rand.Read(key)
	c, err := xts.NewWithKernel(kernel, key)
	if err != nil {
		return xtsRow{}, err
	}
	defer c.Wipe()
	run := c.EncryptSectors
	if op == "decrypt" {
		run = c.DecryptSectors
	}
	buffer := make([]byte, xtsWorkingSet)
	perCall := sector
	if batch {
		perCall = xtsWorkingSet
	}
	// Enough calls for a window that the clock resolves.
	calls := xtsWorkingSet / perCall
	for timeOf(func() { walk(run, buffer, perCall, sector, calls) }) < xtsWindow {
		calls *= 2
	}
	var speed, fraction []float64
	for range windows {
		before, bytes := rooflineTime(kernel)
		took := timeOf(func() { walk(run, buffer, perCall, sector, calls) })
		after, _ := rooflineTime(kernel)
		gbs := float64(calls*perCall) / float64(took)
		speed = append(speed, gbs)
		if bytes > 0 {
			rounds := float64(bits/32 + 6)
			bound := 2 * float64(bytes) / float64(before+after) / rounds
			fraction = append(fraction, gbs/bound)
		}
	}
	return xtsRow{"xts", kernel, bits, op, sector, batch, median(speed), median(fraction)}, nil
}

func walk(run func(dst, src []byte, sector int, tweak, step uint64), buffer []byte, perCall, sector, calls int) {
	for i := range calls {
		at := i * perCall % len(buffer)
		run(buffer[at:at+perCall], buffer[at:at+perCall], sector, uint64(i), 8)
	}
}

func rooflineTime(kernel string) (took time.Duration, bytes int64) {
	start := time.Now()
	bytes, _ = xts.Roofline(kernel, rooflineTurns)
	return time.Since(start), bytes
}

func timeOf(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func measureOracle(bits, sector, windows int) xtsRow {
	key := make([]byte, bits/4)
	rand.Read(key)
	c, err := oracle.NewCipher(aes.NewCipher, key)
	if err != nil {
		panic(err)
	}
	buffer := make([]byte, xtsWorkingSet)
	var speed []float64
	for range windows {
		took := timeOf(func() {
			for at := 0; at < len(buffer); at += sector {
				c.Encrypt(buffer[at:at+sector], buffer[at:at+sector], uint64(at))
			}
		})
		speed = append(speed, float64(len(buffer))/float64(took))
	}
	return xtsRow{Bench: "xts", Kernel: "x/crypto/xts", Bits: bits, Op: "encrypt", Sector: sector, Batch: true, GBs: median(speed)}
}

// measureOpenSSL runs `openssl speed`, which sets the IV once for all and so flatters OpenSSL.
func measureOpenSSL(ctx context.Context, o options) {
	version, err := exec.CommandContext(ctx, "openssl", "version").Output()
	if err != nil {
		o.out.missing("xts", "openssl", err.Error())
		return
	}
	name := "openssl"
	if fields := strings.Fields(string(version)); len(fields) > 1 {
		name += " " + fields[1]
	}
	turns := 5
	if o.quick {
		turns = 1
	}
	for _, bits := range []int{128, 256} {
		for _, sector := range []int{512, 4096} {
			var speed []float64
			for range turns {
				out, err := exec.CommandContext(ctx, "openssl", "speed", "-mr", "-seconds", "1", "-bytes", strconv.Itoa(sector),
					"-evp", fmt.Sprintf("aes-%d-xts", bits)).Output()
				if err != nil {
					o.out.missing("xts", name, err.Error())
					return
				}
				// The last line is +F:22:AES-256-XTS:bytes per second.
				fields := strings.Split(strings.TrimSpace(string(out)), ":")
				if rate, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
					speed = append(speed, rate/1e9)
				}
			}
			xtsRow{Bench: "xts", Kernel: name, Bits: bits, Op: "encrypt", Sector: sector, GBs: median(speed)}.print(o.out)
		}
	}
}
