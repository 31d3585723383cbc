package fs

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request, interrupt := context.WithCancel(t.Context())
		p := newPatient(request)
		if err := p.Err(); err != nil {
			t.Fatal(err)
		}
		interrupt()
		began := time.Now()
		if err := p.Err(); err != nil {
			t.Errorf("at once after the interrupt: %v", err)
		}
		<-p.Done()
		if took := time.Since(began); took != interruptGrace || p.Err() == nil {
			t.Errorf("it ended after %v with %v", took, p.Err())
		}
		p.end()

		request, interrupt = context.WithCancel(t.Context())
		defer interrupt()
		p = newPatient(request)
		waits := p.Done()
		synctest.Wait()
		select {
		case <-waits:
			t.Error("a request that was not interrupted ended")
		default:
		}
		p.end() // leaves nothing that waits for the interrupt
	})
}

// A request that does not wait costs the struct alone.
func TestPatientIsCheap(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if n := testing.AllocsPerRun(100, func() {
		p := newPatient(ctx)
		if p.Err() != nil {
			t.Error("it has ended")
		}
		p.end()
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// A process that is killed while its request waits is gone soon: the wait ends with the interrupt.
func TestKilledWaiterEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		hold func(v *fakeVolume)
		args []string // of dd
	}{
		{"write", func(v *fakeVolume) { v.noRoom.Store(true) }, []string{"if=/dev/zero", "of=%", "bs=4k", "count=1", "conv=notrunc"}},
		{"punch", func(v *fakeVolume) { v.noRoom.Store(true) }, nil},
		{"read", func(v *fakeVolume) { v.lost.Store(true) }, []string{"if=%", "of=/dev/null", "bs=4k", "count=1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, f := liveMount(t, mib)
			c.hold(v)
			cmd := exec.Command("fallocate", "-p", "-o", "0", "-l", "64k", f.Name())
			if c.args != nil {
				cmd = exec.Command("dd")
				for _, a := range c.args {
					cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "%", f.Name()))
				}
			}
			must(t, cmd.Start())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = cmd.Wait() }()
			select {
			case <-ended:
				t.Fatalf("%v has not waited: %v", cmd.Args, cmd.ProcessState)
			case <-time.After(300 * time.Millisecond):
			}
			must(t, cmd.Process.Kill())
			select {
			case <-ended:
			case <-time.After(time.Minute):
				v.noRoom.Store(false)
				v.lost.Store(false)
				t.Error("it waits still")
			}
		})
	}
}
