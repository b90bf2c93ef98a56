package encrypt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// marker remembers on the machine that a job has begun to write to a device. With it a killed job may start again over its
// own header; without it a header is somebody's data.
type marker struct {
	JobID    string `json:"job_id"`
	DeviceID string `json:"device_id"`
	// Identity is the device's as the machine found it: the broker's word alone does not move a job to another disk.
	Identity string `json:"identity"`
}

func markerPath(stateDir, deviceID string) string {
	return filepath.Join(stateDir, "jobs", filepath.Base(deviceID)+".json")
}

// begun reports whether this job has written to this device before.
func (m marker) begun(stateDir string) (bool, error) {
	data, err := os.ReadFile(markerPath(stateDir, m.DeviceID))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the job's marker: %w", err)
	}
	var old marker
	if err := json.Unmarshal(data, &old); err != nil {
		return false, fmt.Errorf("read the job's marker %s: %w; remove it", markerPath(stateDir, m.DeviceID), err)
	}
	return old == m, nil
}

// set is durable when it returns, so that no byte is written to the device before.
func (m marker) set(stateDir string) error {
	path := markerPath(stateDir, m.DeviceID)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder for job markers: %w", err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the job's marker: %w", err)
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write the job's marker: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write the job's marker: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Forget removes the marker of a device: its job is settled, and what the device holds from now on is data.
func Forget(stateDir, deviceID string) error {
	if err := os.Remove(markerPath(stateDir, deviceID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the job's marker: %w", err)
	}
	return nil
}
