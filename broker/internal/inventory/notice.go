package inventory

import (
	"fmt"

	"keyward/broker/internal/store"
)

// alarms are the messages that are kept until somebody puts them aside. The others tell of what the lists show anyway.
var alarms = map[string]bool{"provisioning-failed": true, "provisioning-idle": true, "raid-member-missing": true}

// tell keeps for people what a change wants them told, about a device.
func tell(t *store.Tenant, res Result, d store.Device, text string) error {
	for _, e := range res.Effects {
		if e.Kind != "notify" || !alarms[e.Name] {
			continue
		}
		if err := store.In[store.Notice](t).Insert(&store.Notice{Kind: e.Name, InstanceID: d.InstanceID, DeviceID: d.ID, Text: text}); err != nil {
			return fmt.Errorf("telling people of device %q: %w", d.Name, err)
		}
	}
	return nil
}
