package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"keyward/agent/internal/control"
	"keyward/agent/provider"
	"keyward/agent/volume"
	"keyward/broker/api"
)

// slow lists one device once it is let.
type slow struct {
	provider.Provider
	let chan struct{}
}

func (s slow) Devices(context.Context) ([]provider.Device, error) {
	<-s.let
	return []provider.Device{{ID: "a"}}, nil
}

// An encrypt job that was waiting for the agent begins with a look at the devices while the first inventory looks too.
func TestDevices_whoComesWhileAnotherLooksWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		d := &Daemon{provider: slow{let: let}, scanning: make(chan struct{}, 1)}
		look := func() <-chan error {
			done := make(chan error, 1)
			go func() {
				list, err := d.devices(t.Context())
				if err == nil && len(list) != 1 {
					err = errors.New("found nothing")
				}
				done <- err
			}()
			synctest.Wait()
			return done
		}
		first, second := look(), look()
		close(let)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}

		hangs := make(chan struct{})
		d.provider = slow{let: hangs}
		for what, done := range map[string]<-chan error{"a look that hangs": look(), "one that waits for it": look()} {
			if err := <-done; !errors.Is(err, errScanHangs) { // after scanWait, which takes no time here
				t.Errorf("%s ended with %v", what, err)
			}
		}
		close(hangs)
	})
}

func TestEncrypt_aJobThatWaitsIsTakenWhenTheAgentStarts(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	d := r.broker.Published("data.img")
	r.stop()
	r.broker.Configure(d.ID, "ext4", r.dir+"/mnt", api.AccessReadWrite, 256)
	job := r.broker.Encrypt(d.ID, false)
	r.start()
	if progress := r.broker.JobEnd(job); !progress[len(progress)-1].Done {
		t.Errorf("the job ended with %+v", progress)
	}
	r.stop()
}

// A device whose key was destroyed is encrypted anew: the agent, which knows the former volume, asks for the new one's key.
func TestDaemon_asksForADeviceThatIsEncryptedAnew(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	first := r.mounted(id)
	r.until(volume.Mounted)
	if answer := r.ask(control.OpLock, id); answer.Error != "" {
		t.Fatal(answer.Error)
	}
	progress := r.broker.JobEnd(r.broker.Encrypt(id, true))
	if last := progress[len(progress)-1]; !last.Done {
		t.Fatalf("the second job ended with %+v", last)
	}
	if again := r.mounted(id); again.Number <= first.Number {
		t.Errorf("request %d follows request %d", again.Number, first.Number)
	}
	r.until(volume.Mounted)
	r.wantMounted(target, true)
	r.stop()
}

// A policy may want heartbeats more often than the last answer to one said. Who asks under it does not wait for the next.
func TestHeartbeat_comesSoonerWhenARequestSaysSo(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.broker.Pace(3600)
	r.enrol()
	r.start()
	r.eventually("the first heartbeat", func() bool { return len(r.broker.Beats()) > 0 })
	r.broker.Pace(1)
	r.encrypted("data.img")
	r.eventually("heartbeats at the new pace", func() bool { return len(r.broker.Beats()) > 3 })
	r.stop()
}
