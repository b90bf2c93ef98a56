// Command seed puts invented machines into a broker's database and prints one JSON object a line for each that can call.
// The benchmark of the broker runs it; no other program contains it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"log"
	"log/slog"
	"os"

	"keyward/broker/internal/fleet"
	"keyward/broker/internal/server"
)

func main() {
	c := server.Defaults()
	flag.StringVar(&c.Data, "data", "", "the broker's data folder")
	flag.StringVar(&c.RootKey, "root-key", "", "its root key file")
	flag.StringVar(&c.DSN, "dsn", "", "its database")
	account := flag.String("account", "", "name or ID of the account")
	machines := flag.Int("machines", 100, "how many")
	silent := flag.Bool("silent", false, "without certificates: they only take up room")
	flag.Parse()
	c.Logger = slog.New(slog.DiscardHandler)
	if err := seed(context.Background(), c, *account, *machines, !*silent); err != nil {
		log.Fatal(err)
	}
}

func seed(ctx context.Context, c server.Config, account string, machines int, certificates bool) error {
	o, err := server.OpenOperator(ctx, c)
	if err != nil {
		return err
	}
	defer o.Close()
	p, err := o.Account(ctx, account)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	lines := json.NewEncoder(out)
	maker := fleet.Maker{Store: o.Store(), CA: o.Identity.CA, Root: o.Identity.Root, AccountID: p.AccountID}
	if err := maker.Make(ctx, machines, certificates, func(m fleet.Machine) error {
		if !certificates {
			return nil
		}
		return lines.Encode(m)
	}); err != nil {
		return err
	}
	return out.Flush()
}
