package blockdev

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
)

// awaitState waits for a state of a device.
func awaitState(t *testing.T, id int, want State) {
	t.Helper()
	var got State
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		i, err := Info(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got = i.State; got == want {
			return
		}
	}
	t.Fatalf("device %d is %s, want %s", id, got, want)
}

// What becomes of a device whose server is killed is what was asked for.
func TestDeviceRecoveries(t *testing.T) {
	requireUblk(t, _UBLK_F_USER_RECOVERY_FAIL_IO)
	for recovery, state := range map[Recovery]State{RecoveryNone: StateDead, RecoveryFailIO: StateFailIO, RecoveryReissue: StateQuiesced} {
		t.Run(string(recovery), func(t *testing.T) {
			t.Setenv(childRecoveryEnv, string(recovery))
			path := loopFile(t, 1<<20)
			child, id := startChild(t, path, CopyAuto, -1)
			want := bytes.Repeat([]byte("recovery"), 512)
			write := openDisk(t, blockPath(id), os.O_RDWR)
			buf := aligned(len(want), 0)
			copy(buf, want)
			if _, err := write.WriteAt(buf, 4096); err != nil {
				t.Fatal(err)
			}
			write.Close()
			if i, err := Info(t.Context(), id); err != nil || i.Recovery() != recovery {
				t.Errorf("the recovery is %q, %v", i.Recovery(), err)
			}
			killChild(t, child)
			awaitState(t, id, state)
			if recovery == RecoveryNone {
				if _, err := Recover(t.Context(), id, openLoop(t, path, loop.Options{}), Options{}); !errors.Is(err, ErrNoDevice) {
					t.Errorf("a dead device was recovered: %v", err)
				}
				if err := Delete(t.Context(), id, false); err != nil {
					t.Fatal(err)
				}
				return
			}
			if recovery == RecoveryFailIO {
				f := openDisk(t, blockPath(id), os.O_RDONLY)
				if _, err := f.ReadAt(buf, 4096); err == nil {
					t.Error("a read of a device without a server succeeds")
				}
				f.Close()
			}
			d, err := Recover(t.Context(), id, openLoop(t, path, loop.Options{}), Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stopDevice(t, d) })
			f := openDisk(t, d.Path(), os.O_RDONLY)
			clear(buf)
			if _, err := f.ReadAt(buf, 4096); err != nil || !bytes.Equal(buf, want) {
				t.Errorf("other bytes, or %v", err)
			}
			f.Close()
		})
	}
}

// A device that another call quiesces ends its server, and waits with its I/O for the next.
func TestQuiesce(t *testing.T) {
	requireUblk(t, _UBLK_F_QUIESCE)
	path := loopFile(t, 1<<20)
	child, id := startChild(t, path, CopyAuto, -1)
	f := openDisk(t, blockPath(id), os.O_RDWR)
	if err := Quiesce(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	if err := Quiesce(t.Context(), id); !errors.Is(err, ErrInvalid) {
		t.Errorf("quiesced twice: %v", err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(aligned(4096, 0), 0)
		read <- err
	}()
	select {
	case err := <-read:
		t.Fatalf("a read of a quiesced device returns: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	d, err := Recover(t.Context(), id, openLoop(t, path, loop.Options{}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDevice(t, d) })
	select {
	case err := <-read:
		if err != nil {
			t.Errorf("the read that waited: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the read still waits")
	}
	f.Close()
}

// A device that was made without recovery can't be quiesced.
func TestQuiesceWithoutRecovery(t *testing.T) {
	requireUblk(t, _UBLK_F_QUIESCE)
	d := startDevice(t, null.New(1<<20, 512), Options{Recovery: RecoveryNone})
	if err := Quiesce(t.Context(), d.ID()); !errors.Is(err, ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
	if err := Quiesce(t.Context(), 1<<19); !errors.Is(err, ErrNoDevice) {
		t.Errorf("no device: %v", err)
	}
}

// A size that another process gives a device is noticed with the first request beyond the old one,
// and only as far as the target goes.
func TestResizeFromElsewhere(t *testing.T) {
	requireUblk(t, _UBLK_F_UPDATE_SIZE)
	path := loopFile(t, 1<<20)
	l := openLoop(t, path, loop.Options{})
	for name, c := range map[string]struct {
		d     *Device
		fails bool
	}{
		"null":           {startDevice(t, null.New(1<<20, 512), Options{}), false},
		"loop, too soon": {startDevice(t, l, Options{}), true},
	} {
		if err := Resize(t.Context(), c.d.ID(), 4<<20); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := openDisk(t, c.d.Path(), os.O_RDONLY)
		if _, err := f.ReadAt(aligned(4096, 0), 3<<20); (err != nil) != c.fails {
			t.Errorf("%s: a read beyond the old size: %v", name, err)
		}
		if c.fails {
			if err := os.Truncate(path, 4<<20); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Measure(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(aligned(4096, 0), 3<<20); err != nil {
				t.Errorf("%s: the file has grown: %v", name, err)
			}
		}
		f.Close()
		if got := c.d.Size(); got != 4<<20 {
			t.Errorf("%s: the server takes the device for %d bytes", name, got)
		}
		for _, size := range []int64{0, -512, 1000} {
			if err := Resize(t.Context(), c.d.ID(), size); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %d bytes: %v", name, size, err)
			}
		}
	}
}

// Each CPU that is there has its requests go to one queue.
func TestAffinity(t *testing.T) {
	requireUblk(t, 0)
	d := startDevice(t, null.New(1<<20, 512), Options{Queues: 2})
	queues, err := Affinity(t.Context(), d.ID())
	if err != nil || len(queues) != d.Queues() {
		t.Fatalf("%v, %v, want %d queues", queues, err, d.Queues())
	}
	seen := map[int]bool{}
	for _, cpus := range queues {
		for _, cpu := range cpus {
			if seen[cpu] {
				t.Errorf("CPU %d has two queues: %v", cpu, queues)
			}
			seen[cpu] = true
		}
	}
	if !seen[0] {
		t.Errorf("CPU 0 has no queue: %v", queues)
	}
}
