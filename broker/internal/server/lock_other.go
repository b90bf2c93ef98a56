//go:build !unix

package server

// dataLock is nothing where there is no flock: SQLite's own locks keep the data safe, and two brokers only disagree on
// who answers.
type dataLock struct{}

func lockData(Config) (*dataLock, error) { return nil, nil }

func (l *dataLock) release() error { return nil }
