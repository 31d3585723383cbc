package blockdev

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
)

// childEnv makes the test binary a server of one loop device: "file copymode id", id -1 for a new
// device, else the one to recover.
const childEnv = "VARVE_TEST_SERVE"

// childQueuesEnv is how many queues a new device of the child has; nothing: the default.
const childQueuesEnv = "VARVE_TEST_QUEUES"

// childRecoveryEnv is the Recovery of a new device of the child; nothing: the default.
const childRecoveryEnv = "VARVE_TEST_RECOVERY"

// childScanEnv makes the child answer no read, and scan for partitions.
const childScanEnv = "VARVE_TEST_SCAN"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := serveChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// serveChild tells the device's number on its standard output and serves until it is killed.
func serveChild(spec string) error {
	var path string
	var mode CopyMode
	var id int
	if _, err := fmt.Sscan(spec, &path, &mode, &id); err != nil {
		return err
	}
	queues := DefaultQueues
	if n := os.Getenv(childQueuesEnv); n != "" {
		var err error
		if queues, err = strconv.Atoi(n); err != nil {
			return err
		}
	}
	l, err := loop.Open(path, loop.Options{})
	if err != nil {
		return err
	}
	o := Options{ID: -1, CopyMode: mode, Queues: queues, Recovery: Recovery(os.Getenv(childRecoveryEnv))}
	var d *Device
	var target target.Target = l
	if os.Getenv(childScanEnv) != "" {
		target = gatedLoop{l, func(ctx context.Context) { <-ctx.Done() }}
	}
	if id < 0 {
		d, err = Start(context.Background(), target, o)
	} else {
		d, err = Recover(context.Background(), id, l, o)
	}
	if err != nil {
		return err
	}
	fmt.Println(d.ID())
	if os.Getenv(childScanEnv) != "" {
		return d.ScanPartitions(context.Background())
	}
	return d.Wait()
}

func startChild(t *testing.T, path string, mode CopyMode, id int) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", childEnv, path, mode, id))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("child for device %d: %v", id, err)
	}
	got, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return cmd, got
}

func killChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed: that is its error
}

// The server is killed again and again under a writer; its successor, at last this process, goes
// on.
func TestDeviceKill(t *testing.T) {
	for _, m := range []CopyMode{CopyZero, CopyUser, CopyPlain} {
		t.Run(string(m), func(t *testing.T) {
			requireUblk(t, 0)
			const size, kills = 4 << 20, 5
			path := loopFile(t, size)
			child, id := startChild(t, path, m, -1)
			w := startWriter(t, blockPath(id), size)
			for range kills {
				time.Sleep(100 * time.Millisecond)
				killChild(t, child)
				child, _ = startChild(t, path, m, id)
			}
			killChild(t, child)
			info, err := Info(t.Context(), id)
			if err != nil || info.ServerAlive {
				t.Errorf("info %+v, %v: want no living server", info, err)
			}
			l := openLoop(t, path, loop.Options{})
			if _, err := Recover(t.Context(), id, null.New(size*2, 512), Options{CopyMode: m}); err == nil {
				t.Fatal("recovered with a target of another size")
			}
			began := time.Now()
			d, err := Recover(t.Context(), id, l, Options{CopyMode: m})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("recovered after %v", time.Since(began))
			t.Cleanup(func() { stopDevice(t, d) })
			w.stop()
		})
	}
}

// A device whose server was killed is found and can be deleted without a successor.
func TestDeviceOrphanDelete(t *testing.T) {
	requireUblk(t, 0)
	child, id := startChild(t, loopFile(t, 1<<20), CopyAuto, -1)
	killChild(t, child)
	awaitState(t, id, StateQuiesced)
	list, err := List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found DeviceInfo
	for _, i := range list {
		if i.ID == id {
			found = i
		}
	}
	if !found.Orphan() || found.State != StateQuiesced {
		t.Errorf("list has %+v: want a quiesced orphan", found)
	}
	if err := Delete(t.Context(), id, false); err != nil {
		t.Error(err)
	}
}

// safeBuffer collects a log.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }
