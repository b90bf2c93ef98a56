package facts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"keyward/broker/api"
)

// mdatpPaths are where the package puts Defender's command (learn.microsoft.com, "Microsoft Defender for Endpoint on Linux").
var mdatpPaths = []string{"usr/bin/mdatp", "opt/microsoft/mdatp/sbin/wdavdaemonclient"}

var defender = product{
	name:      api.ProductDefender,
	installed: func(s Sources) bool { return s.anyFile(mdatpPaths...) },
	examine:   askDefender,
}

func askDefender(ctx context.Context, s Sources) report {
	r := report{scanner: true, source: "mdatp health"}
	for _, path := range mdatpPaths {
		if _, err := os.Stat(s.path(path)); err != nil {
			continue
		}
		out, err := output(ctx, commandTime, 1<<20, s.path(path), "health", "--output", "json")
		if err != nil {
			r.err = err
			return r
		}
		if err := r.readDefender(out, s.Clock()); err != nil {
			r.err, r.state = err, impaired
		}
		return r
	}
	r.err = errors.New("mdatp is not there any more")
	return r
}

// loose is a value as Defender's versions wrote it: itself, its text, or an object that holds it.
type loose string

// UnmarshalJSON implements json.Unmarshaler.
func (l *loose) UnmarshalJSON(data []byte) error {
	var object struct {
		Value *loose `json:"value"`
	}
	var text string
	switch {
	case len(data) > 0 && data[0] == '{':
		if err := json.Unmarshal(data, &object); err != nil {
			return err
		}
		if object.Value != nil {
			*l = *object.Value
		}
	case json.Unmarshal(data, &text) == nil:
		*l = loose(text)
	case string(data) != "null":
		*l = loose(data)
	}
	return nil
}

// readDefender reads the health report. Lines of warnings before it are no part of it.
func (r *report) readDefender(out []byte, now time.Time) error {
	var h struct {
		Healthy    loose `json:"healthy"`
		App        loose `json:"appVersion"`
		Engine     loose `json:"engineVersion"`
		Pattern    loose `json:"definitionsVersion"`
		MinutesAgo loose `json:"definitionsUpdatedMinutesAgo"`
		RealTime   loose `json:"realTimeProtectionEnabled"`
	}
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return errors.New("mdatp health printed no JSON")
	}
	if err := json.Unmarshal(out[start:], &h); err != nil {
		return fmt.Errorf("read mdatp's health: %w", err)
	}
	for _, v := range []loose{h.App, h.Engine, h.Pattern} {
		if v != "" && !isPlainVersion(string(v)) {
			return fmt.Errorf("mdatp's health names %.40q for a version", string(v))
		}
	}
	r.version, r.engine, r.pattern = string(h.App), string(h.Engine), string(h.Pattern)
	r.state = map[loose]string{"true": running, "false": impaired}[h.Healthy]
	r.realTime = map[loose]string{"true": on, "false": off}[h.RealTime]
	if minutes, err := strconv.ParseUint(string(h.MinutesAgo), 10, 31); err == nil && h.MinutesAgo != "" {
		r.patternDate = now.Add(-time.Duration(minutes) * time.Minute)
	}
	return nil
}
