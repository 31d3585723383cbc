package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"varve/cmd/varve/internal/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ended is a device whose service has ended.
type ended struct{ err error }

func (ended) ScanPartitions(context.Context) error { return nil }
func (ended) Resize(context.Context, int64) error  { return nil }
func (ended) Stop(context.Context, bool) error     { return nil }
func (ended) Claimed() bool                        { return false }
func (ended) Leave(context.Context) error          { return nil }
func (ended) Done() <-chan struct{}                { return nil }
func (d ended) Err() error                         { return d.err }

func tableAt(t *testing.T) *Table {
	t.Helper()
	return New(Options{Dir: t.TempDir(), Boot: "boot", Logger: slog.New(slog.DiscardHandler)})
}

func attachment(volume string, id int) protocol.Attachment {
	return protocol.Attachment{Volume: volume, Device: fmt.Sprintf("/dev/ublkb%d", id), Transport: "ublk", ID: id}
}

// onDisk returns what the list on disk says: nodes of devices, and volumes whose devices are being
// made.
func onDisk(t *testing.T, table *Table) (nodes, starting []string) {
	t.Helper()
	l, err := ReadList(table.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range l.Attached {
		nodes = append(nodes, a.Device)
	}
	return nodes, l.Starting
}

// in makes a table whose volume a has a device in the state.
func in(t *testing.T, s State) (table *Table, e *Entry) {
	t.Helper()
	table = tableAt(t)
	a := attachment("a", 0)
	switch s {
	case None, states:
	case Attaching:
		table.Begin("a")
	case Served, Detaching:
		table.Begin("a")
		e = table.Serve(a, ended{})
		if s == Detaching && !table.BeginDetach(e) {
			t.Fatal("a device that is served can't be detached")
		}
	case Waiting:
		table.Expect([]protocol.Attachment{a})
		e = table.own["a"]
	}
	return table, e
}

// Each method moves the devices that it is for, and leaves those of all other states alone, or
// panics where its caller can't have had the device.
func TestEveryMethodInEveryState(t *testing.T) {
	a, reason := attachment("a", 0), errors.New("broken")
	bug := states // the method panics
	for _, c := range []struct {
		name   string
		call   func(table *Table, e *Entry)
		become [states]State // from None, Attaching, Served, Detaching, Waiting
	}{
		{"Begin", func(table *Table, _ *Entry) { table.Begin("a") }, [states]State{Attaching, Attaching, Served, Detaching, Waiting}},
		{
			"Expect", func(table *Table, _ *Entry) { table.Expect([]protocol.Attachment{a}) },
			[states]State{Waiting, Attaching, Served, Detaching, Waiting},
		},
		{"Serve", func(table *Table, _ *Entry) { table.Serve(a, ended{}) }, [states]State{bug, Served, bug, Served, Served}},
		{"BeginDetach", func(table *Table, e *Entry) { table.BeginDetach(e) }, [states]State{bug, bug, Detaching, Detaching, Waiting}},
		{"Stay", func(table *Table, e *Entry) { table.Stay(e) }, [states]State{bug, bug, Served, Served, Waiting}},
		{"Leave", func(table *Table, e *Entry) { table.Leave(e) }, [states]State{bug, bug, Served, Waiting, Waiting}},
		{"Lose", func(table *Table, e *Entry) { table.Lose(e, reason) }, [states]State{bug, bug, Waiting, Detaching, Waiting}},
		{
			"Postpone", func(table *Table, _ *Entry) { table.Postpone(a, reason, time.Second, time.Minute) },
			[states]State{Waiting, bug, Waiting, Waiting, Waiting},
		},
		{"Forget", func(table *Table, _ *Entry) { table.Forget(a) }, [states]State{None, Attaching, Served, Detaching, None}},
		{
			"Forget another", func(table *Table, _ *Entry) { table.Forget(attachment("a", 7)) },
			[states]State{None, Attaching, Served, Detaching, Waiting},
		},
		{"Drop", func(table *Table, _ *Entry) { table.Drop("a") }, [states]State{None, None, Served, None, Waiting}},
	} {
		for from := None; from < states; from++ {
			table, e := in(t, from)
			got := func() (s State) {
				defer func() {
					if recover() != nil {
						s = bug
					}
				}()
				c.call(table, e)
				return table.state("a")
			}()
			if want := c.become[from]; got != want {
				t.Errorf("%s of a device that was %v: %d, want %d", c.name, from, got, want)
			}
		}
	}
}

// A device is in the list on disk from before it is made until after it is gone, and a foreign one
// until it is said whose it is.
func TestListOnDiskFollows(t *testing.T) {
	table := tableAt(t)
	want := func(when string, node, starting bool) {
		t.Helper()
		nodes, begun := onDisk(t, table)
		if slices.Contains(nodes, "/dev/ublkb0") != node || slices.Contains(begun, "a") != starting || len(nodes)+len(begun) > 1 {
			t.Errorf("%s the list has %q, starting %q", when, nodes, begun)
		}
	}
	table.Begin("a")
	want("while it is made", false, true)
	e := table.Serve(attachment("a", 0), ended{})
	want("when it is served", true, false)
	table.BeginDetach(e)
	want("while it is detached", true, false)
	table.Stay(e)
	w := table.Lose(e, errors.New("broken"))
	want("when its service has failed", true, false)
	_, _, quit := table.Postpone(attachment("a", 0), errors.New("broken"), time.Second, time.Minute)
	want("while it waits for another try", true, false)
	if table.StillWaits(w) {
		t.Error("a period of waiting goes on when the next has begun")
	}
	e = table.Serve(attachment("a", 0), ended{})
	select {
	case <-quit:
	default:
		t.Error("a device that is served waits for another try")
	}
	table.Freeze(true)
	table.BeginDetach(e)
	table.Drop("a")
	want("as long as it is frozen", true, false)
	table.Freeze(false)
	want("when it is gone", false, false)
	table.SetForeign([]protocol.Attachment{attachment("b", 1)})
	if l, err := ReadList(table.o.Dir); err != nil || len(l.Foreign) != 1 || !table.MayHave("b") {
		t.Errorf("a foreign device: %+v, %v", l, err)
	}
}

// What an earlier daemon has left stays in the list until it was seen to.
func TestListKeepsWhatAnEarlierDaemonLeft(t *testing.T) {
	table := tableAt(t)
	table.Inherit(&List{
		Attached: []protocol.Attachment{attachment("a", 0), attachment("gone", 1)}, Starting: []string{"b"},
		Restore: []protocol.Attachment{attachment("c", 2)}, Mounts: []protocol.Mount{{Dir: "/mnt"}},
	})
	table.Expect([]protocol.Attachment{attachment("a", 0), attachment("new", 3)})
	nodes, starting := onDisk(t, table)
	if !slices.Equal(nodes, []string{"/dev/ublkb0", "/dev/ublkb1", "/dev/ublkb3"}) || !slices.Equal(starting, []string{"b"}) {
		t.Errorf("during a takeover the list has %q, starting %q", nodes, starting)
	}
	table.Settled()
	table.Begin("c")
	table.Serve(attachment("c", 2), ended{})
	l, err := ReadList(table.o.Dir)
	if err != nil || len(l.Attached) != 3 || len(l.Starting)+len(l.Restore) > 0 || len(l.Mounts) != 1 {
		t.Errorf("when devices have been seen to, the list is %+v, %v", l, err)
	}
	table.SetMounts([]protocol.Mount{{Dir: "/other"}})
	if l, err = ReadList(table.o.Dir); err != nil || len(l.Mounts) != 2 {
		t.Errorf("mounts are %+v, %v", l.Mounts, err)
	}
	table.SetMounts([]protocol.Mount{{Dir: "/mnt", AllowOther: true}})
	if l, err = ReadList(table.o.Dir); err != nil || len(l.Mounts) != 1 || !l.Mounts[0].AllowOther {
		t.Errorf("mounts are %+v, %v", l.Mounts, err)
	}
}

// The table can be looked at while the list is written, and changes that wait for the writing share
// one.
func TestTableIsNotHeldWhileItIsWritten(t *testing.T) {
	table := tableAt(t)
	const n = 50
	var changes sync.WaitGroup
	table.writing.Lock() // the disk does not answer
	for i := range n {
		changes.Go(func() { table.Begin(fmt.Sprint("v", i)) })
	}
	begun := func() int {
		count := 0
		for i := range n {
			if table.MayHave(fmt.Sprint("v", i)) {
				count++
			}
		}
		return count
	}
	for deadline := time.Now().Add(time.Minute); begun() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d changes are made while the list is written", begun(), n)
		}
	}
	if list := table.Shown(); len(list) != 0 {
		t.Errorf("devices that are being made are shown: %+v", list)
	}
	table.writing.Unlock()
	changes.Wait()
	if table.written != n { // of a writing that had all: no change came after it
		t.Errorf("change %d was written last, want %d", table.written, n)
	}
	if _, starting := onDisk(t, table); len(starting) != n {
		t.Errorf("the list has %d of %d changes", len(starting), n)
	}
}
