package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// DropPagesCommand is the hidden command that runs DropPages.
const DropPagesCommand = "drop-pages"

// pagesTimeout bounds the wait for the kernel to write back and drop the pages of a device, or of
// live files.
const pagesTimeout = 30 * time.Second

// DropPages reads names of block devices from in, one per line, makes the kernel write back and
// drop its cached pages of each, and writes a line to out for each: empty, or the error.
func DropPages(in io.Reader, out io.Writer) error {
	for lines := bufio.NewScanner(in); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		text := ""
		if err := dropPages(lines.Text()); err != nil {
			text = err.Error()
		}
		if _, err := fmt.Fprintln(out, text); err != nil {
			return err
		}
	}
}

func dropPages(node string) error {
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", node, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("drop the pages of %s: %w", node, err)
	}
	return nil
}

// pageDropper is a process that runs DropPages. It waits for devices that the daemon serves, so it
// must be a separate process: the daemon could not be killed while it waits for itself. It is
// started once, and not for each device, because files of a daemon that is killed while it starts a
// process stay open for a moment.
type pageDropper struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  *os.File // our ends of the pipes; nil: ended, or failed
	out *os.File
}

func startPageDropper() (_ *pageDropper, err error) {
	var theirs [2]*os.File
	p := &pageDropper{cmd: exec.Command("/proc/self/exe", DropPagesCommand)}
	if theirs[0], p.in, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.out, theirs[1], err = os.Pipe(); err != nil {
		return nil, errors.Join(err, theirs[0].Close(), p.in.Close())
	}
	p.cmd.Stdin, p.cmd.Stdout = theirs[0], theirs[1]
	err = p.cmd.Start()
	_, _ = theirs[0].Close(), theirs[1].Close() // nothing was written to them
	if err != nil {
		return nil, errors.Join(err, p.in.Close(), p.out.Close())
	}
	return p, nil
}

// drop makes the process drop the pages of a device. If the process does not answer, it is not used
// any more.
func (p *pageDropper) drop(node string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in == nil {
		return errors.New("the process that drops pages has ended")
	}
	if err := p.out.SetReadDeadline(time.Now().Add(pagesTimeout)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.in, node)
	var answer string
	if err == nil {
		answer, err = bufio.NewReader(p.out).ReadString('\n') // one line per request: nothing is read ahead
	}
	if err != nil {
		return errors.Join(fmt.Errorf("ask the process that drops pages: %w", err), p.end())
	}
	if answer = strings.TrimSpace(answer); answer != "" {
		return errors.New(answer)
	}
	return nil
}

// end closes the pipes; the process ends when it has read everything. REQUIRES: p.mu is held.
func (p *pageDropper) end() error {
	if p.in == nil {
		return nil
	}
	err := errors.Join(p.in.Close(), p.out.Close())
	p.in = nil
	go func() { _ = p.cmd.Wait() }() // it may wait for a device that is not served
	return err
}

func (p *pageDropper) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end()
}

// deviceOf implements volumeDevices.
func (d *Daemon) deviceOf(volume string) string {
	if k := d.table.Find(volume, ""); k != nil {
		return k.Device
	}
	return ""
}

// mayWriteLive implements volumeDevices.
func (d *Daemon) mayWriteLive(volume string) error {
	if a, taken := d.table.Taken(volume); taken {
		return fmt.Errorf("volume %q: %w: attached as %s; detach it, or mount with --shared-live", volume, objstore.ErrInUse, a.Device)
	}
	return nil
}

// refreshLive makes the kernel drop its cached pages of a volume's live file in all mounts, when
// the volume gets or loses a device.
func (d *Daemon) refreshLive(volume string) {
	if !d.turns.over() {
		d.mounts.refresh(volume)
	}
}
