// Command demo serves the console over invented data: the suite of e2e/browser drives a real browser over it, and people
// look at pages with it while they are made. It keeps nothing and guards nothing: every user's password is printed. No
// other program contains it.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"keyward/broker/internal/console"
	"keyward/broker/internal/console/consoletest"
	"keyward/broker/internal/httpapi"
)

func main() {
	address := "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	broker := consoletest.New(time.Now)
	deps, err := broker.Deps()
	if err != nil {
		return err
	}
	app := httpapi.NewApp(httpapi.AppOptions{Name: "keyward console demo"})
	console.Mount(app, deps)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s account %q users ada sven dana otto kim password %q\n", listener.Addr(), "Harbour Clinic", consoletest.Password)
	return app.Listener(listener)
}
