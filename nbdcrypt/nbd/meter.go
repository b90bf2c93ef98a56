package nbd

import "time"

// meter tells how slow the device is, by one request to it: of a small one its time, of a large one how long it waited.
type meter struct {
	began time.Time
	large bool
	wait  waitMeter
}

// startMeter is called before the device is asked to move n bytes.
func startMeter(n int) meter {
	if n <= smallRequest {
		return meter{began: time.Now()}
	}
	return meter{large: true, wait: startWaitMeter()}
}

func (m *meter) waited() time.Duration {
	if m.large {
		return m.wait.waited()
	}
	return time.Since(m.began)
}
