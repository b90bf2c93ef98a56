// Command bench measures Keyward's hot paths beside their peers, interleaved in one run, and prints medians as a table or,
// with -json, as one object a line:
//
//	go run ./bench xts   sector ciphers: every kernel beside its roofline, OpenSSL and x/crypto/xts
//	go run ./bench nbd   the NBD server, encrypted and in clear, beside nbdkit, qemu-nbd and go-nbd
//	go run ./bench mount ext4 on an encrypted volume beside nbdfuse and a plain loop device (needs root)
//	go run ./bench broker deliveries of keys in a boot storm beside a bare TLS server, Tang and an echo
//	go run ./bench all
//
// Machines differ and are noisy: read ratios within one run, not figures across runs. A peer that is not installed is
// named as missing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// options are the flags that every benchmark knows.
type options struct {
	// quick takes few and short windows: enough to see that the benchmark runs, too few to quote.
	quick bool
	// cases picks cases of nbd and steps of broker by name, nil for all.
	cases *regexp.Regexp
	// storm, window and devices are sizes of the broker's benchmark; 0 means its own.
	storm, window, devices int
	out                    *report
}

// benchmarks by name, in the order of "all".
var benchmarks = []struct {
	name string
	run  func(context.Context, options) error
}{
	{"xts", benchXTS},
	{"nbd", benchNBD},
	{"mount", benchMount},
	{"broker", benchBroker},
}

func main() {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	asJSON := flags.Bool("json", false, "print one JSON object a line")
	quick := flags.Bool("quick", false, "few and short windows")
	var cases *regexp.Regexp
	flags.Func("cases", "only cases of nbd, and steps of broker (sqlite and postgres: windows, lone, storm, beats, grow), whose name this regular expression matches", func(v string) (err error) {
		cases, err = regexp.Compile(v)
		return err
	})
	storm := flags.Int("storm", 0, "broker: how many machines ask at once (default 10000)")
	window := flags.Int("window", 0, "broker: how many deliveries are measured at a time (default 1000)")
	devices := flags.Int("devices", 0, "broker: how many devices the inventory grows to (default 100000)")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: bench NAME [-json] [-quick] [-cases REGEXP]    NAME: all or one of")
		for _, b := range benchmarks {
			fmt.Fprintln(flags.Output(), "  "+b.name)
		}
		flags.PrintDefaults()
	}
	if len(os.Args) < 2 {
		flags.Usage()
		os.Exit(2)
	}
	name := os.Args[1]
	if name == "serve" && len(os.Args) == 5 {
		if err := serve(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, "bench serve:", err)
			os.Exit(1)
		}
		return
	}
	if name == "floor" && len(os.Args) == 4 {
		if err := serveFloor(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "bench floor:", err)
			os.Exit(1)
		}
		return
	}
	flags.Parse(os.Args[2:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	found := false
	for _, b := range benchmarks {
		if name != b.name && name != "all" {
			continue
		}
		found = true
		o := options{quick: *quick, storm: *storm, window: *window, devices: *devices, cases: cases, out: newReport(os.Stdout, *asJSON)}
		if err := b.run(ctx, o); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", b.name, err)
			os.Exit(1)
		}
		o.out.flush()
	}
	if !found {
		flags.Usage()
		os.Exit(2)
	}
}
