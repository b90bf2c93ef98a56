//go:build race

package nbdcrypt

const raceEnabled = true
