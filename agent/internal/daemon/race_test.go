//go:build race

package daemon

// raceEnabled says that the race detector runs along: its shadow memory is tens of gigabytes, neither small nor searchable.
const raceEnabled = true
