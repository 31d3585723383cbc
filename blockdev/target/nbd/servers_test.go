package nbd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/targettest"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// program is a server of another project, which a test starts, kills and starts again.
type program struct {
	uri           string
	network, addr string // where it listens
	args          []string
	cmd           *exec.Cmd     // nil: it does not run
	ended         chan struct{} // closed when it has
}

// start runs a program until the test ends. In uri and args, DIR is a directory in which 1 MiB of
// zeroes is called disk, SOCKET is a path there, and PORT is a port of 127.0.0.1.
func start(t *testing.T, uri string, args ...string) *program {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip("missing feature: " + args[0])
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	p := &program{network: "tcp", addr: "127.0.0.1:" + port}
	socket := filepath.Join(dir, "s")
	fill := strings.NewReplacer("DIR", dir, "SOCKET", socket, "PORT", port)
	if p.uri = fill.Replace(uri); strings.Contains(uri, "unix") {
		p.network, p.addr = "unix", socket
	}
	for _, a := range args {
		p.args = append(p.args, fill.Replace(a))
	}
	t.Cleanup(p.kill)
	p.run(t)
	return p
}

// freePort returns a port that no server has, and that the kernel gives to no client, even while the
// server that it is for is down.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// run starts the program and waits until it listens.
func (p *program) run(t *testing.T) {
	t.Helper()
	if p.network == "unix" {
		_ = os.Remove(p.addr) // of the one that was killed
	}
	cmd, said, ended := exec.Command(p.args[0], p.args[1:]...), new(bytes.Buffer), make(chan struct{})
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		c, err := net.Dial(p.network, p.addr)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-ended:
			t.Errorf("%v has ended: %s", p.args, said)
			return
		default:
		}
		if time.Now().After(end) {
			t.Errorf("%v does not listen on %s: %v", p.args, p.addr, err)
			return
		}
	}
}

// kill kills the program, and waits until it has ended.
func (p *program) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		p.cmd = nil
	}
}

const (
	overTCP  = "nbd://127.0.0.1:PORT/"
	overUnix = "nbd+unix:///?socket=SOCKET"
)

// The servers that others run, and which are killed and started again under a disk.
func TestServers(t *testing.T) {
	certs := authority(t)
	for name, k := range map[string]struct {
		uri     string
		args    []string
		o       Options
		forgets bool // a server that is started again has another disk
	}{
		"nbdkit memory": {overTCP, []string{"nbdkit", "-f", "-p", "PORT", "-i", "127.0.0.1", "memory", "1M"}, Options{Connections: 2}, true},
		"nbdkit file":   {overUnix, []string{"nbdkit", "-f", "-U", "SOCKET", "file", "DIR/disk"}, Options{Connections: 2}, false},
		"nbdkit delay": {
			overTCP, []string{"nbdkit", "-f", "-p", "PORT", "-i", "127.0.0.1", "--filter=delay", "memory", "1M", "rdelay=1ms", "wdelay=1ms"}, Options{}, true,
		},
		"qemu-nbd": {
			overTCP + "disk",
			[]string{"qemu-nbd", "-f", "raw", "-t", "-e", "4", "-b", "127.0.0.1", "-p", "PORT", "-x", "disk", "--discard=unmap", "DIR/disk"},
			Options{},
			false,
		},
		"qemu-nbd unix": {overUnix, []string{"qemu-nbd", "-f", "raw", "-t", "-e", "4", "-k", "SOCKET", "DIR/disk"}, Options{}, false},
		"nbdkit TLS": {
			"nbds+unix:///?socket=SOCKET&tls-certificates=CERTS",
			[]string{"nbdkit", "-f", "-U", "SOCKET", "--tls=require", "--tls-certificates=CERTS", "--tls-verify-peer", "file", "DIR/disk"},
			Options{Connections: 2},
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withCerts := strings.NewReplacer("CERTS", certs)
			for i := range k.args {
				k.args[i] = withCerts.Replace(k.args[i])
			}
			p := start(t, withCerts.Replace(k.uri), k.args...)
			d := open(t, p.uri, k.o)
			dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
			m := targettest.ModelOptions{Limits: d.Limits(), Steps: 20}
			m.Limits.Discard = false // may leave the bytes as they are, or not
			targettest.Model(t, dev, m)
			if d.Lost() != 0 {
				t.Errorf("%d connections were lost", d.Lost())
			}
			if k.forgets {
				return
			}
			var killing sync.WaitGroup
			done := make(chan struct{})
			killing.Go(func() {
				defer close(done)
				for range 2 {
					time.Sleep(20 * time.Millisecond)
					p.kill()
					p.run(t)
				}
			})
			for running := true; running; {
				targettest.Model(t, dev, m)
				select {
				case <-done:
					running = false
				default:
				}
			}
			killing.Wait()
			if d.Lost() == 0 {
				t.Error("no connection was lost")
			}
		})
	}
}

// What a server answers with an error fails with that error, and nothing else does.
func TestServerErrors(t *testing.T) {
	p := start(t, overUnix, "nbdkit", "-f", "-U", "SOCKET", "--filter=error", "memory", "1M",
		"error=EIO", "error-rate=30%", "error-pwrite=ENOSPC", "error-pwrite-rate=30%")
	d := open(t, p.uri, Options{Connections: 2})
	dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
	failed := map[queue.Op]int{}
	for i := range 200 {
		io := queuetest.IO{Op: queue.OpWrite, Off: int64(i) << 12, Data: make([]byte, 4096)}
		want := unix.ENOSPC
		if i%2 == 0 {
			io.Op, want = queue.OpRead, unix.EIO
		}
		err := dev.Do(&io)
		if err != nil {
			failed[io.Op]++
		}
		if err != nil && !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", io.Op, err, want)
		}
	}
	if len(failed) != 2 || failed[queue.OpRead] == 100 || failed[queue.OpWrite] == 100 {
		t.Errorf("failed: %v of 100 each; want some", failed)
	}
	targettest.Model(t, dev, targettest.ModelOptions{Limits: d.Limits(), Retries: 100})
	if d.Lost() != 0 {
		t.Errorf("%d connections were lost", d.Lost())
	}
}
