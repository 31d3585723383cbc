package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore/failpoint"
)

// Time limits of a handover. While I/O waits they are short.
const (
	helloLimit   = 30 * time.Second // for what the other side says when it has little to do
	settleLimit  = 5 * time.Second  // for settling before it: what has settled is not replayed
	settleRounds = 3
	quickRound   = 200 * time.Millisecond // a round of settling this short leaves nothing worth another
	quiesceLimit = 5 * time.Second
	takeLimit    = 60 * time.Second // for the successor to open the store and take all devices
	buryLimit    = 5 * time.Second  // for a successor that failed to end by itself
)

// handover is the predecessor's side: a successor that wants to take over.
type handover struct {
	link  *link
	hello protocol.Hello
	pidfd int // of the successor
	log   *slog.Logger
	given protocol.Given
	err   error // why it does not get what was let go
}

// serveHandover makes a request's connection a handover's, and passes it on to run when the successor is ready.
func (d *Daemon) serveHandover(w http.ResponseWriter, r *http.Request) {
	if got := r.Header.Get("Upgrade"); got != protocol.HandoverProtocol {
		w.Header().Set("Upgrade", protocol.HandoverProtocol)
		server.Answer(w, http.StatusUpgradeRequired, &protocol.Error{
			Message: fmt.Sprintf("handover protocol %q; this daemon knows %q", got, protocol.HandoverProtocol),
		})
		return
	}
	cred := server.Peer(r.Context())
	rc := http.NewResponseController(w)
	conn, _, err := rc.Hijack()
	if err != nil {
		server.Refuse(w, fmt.Errorf("hand over: %w", err))
		return
	}
	conn, release := server.Unwrap(conn)
	defer release() // until then it counts
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return
	}
	_ = uc.SetDeadline(time.Now().Add(helloLimit)) // the next read or write would say it too
	if _, err := uc.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol.HandoverProtocol + "\r\n\r\n")); err != nil {
		_ = uc.Close()
		return
	}
	h := &handover{link: &link{conn: uc}, pidfd: -1, log: d.log}
	if err := d.meet(h, cred); err != nil {
		d.log.Warn("no upgrade", "error", err)
		h.close()
		return
	}
	d.successors <- h // one at a time: there is room
}

// meet exchanges what goes before the handover. Nothing of the daemon changes.
func (d *Daemon) meet(h *handover, cred *unix.Ucred) error {
	if err := h.link.receive(helloLimit, &h.hello); err != nil {
		return err
	}
	err := h.watch(cred)
	if err == nil {
		err = d.mayHandOver(h)
	}
	if err == nil && !d.handing.CompareAndSwap(false, true) {
		err = protocol.As(protocol.ErrBusy, errors.New("another upgrade is under way"))
	}
	if err != nil {
		e, _ := protocol.NewError(err)
		return errors.Join(err, h.link.send(helloLimit, protocol.Offer{Error: e, PID: os.Getpid(), Version: d.version}))
	}
	offer := protocol.Offer{
		Version: d.version, PID: os.Getpid(), Flags: d.flags, Devices: d.table.Attachments(), Mounts: d.mountList(),
	}
	var ready protocol.Go
	err = h.link.send(helloLimit, offer)
	if err == nil {
		err = h.link.receive(failpoint.Limit(helloLimit), &ready)
	}
	if err == nil && !ready.Ready {
		err = errors.New("the successor is not ready")
	}
	if err != nil {
		d.handing.Store(false)
	}
	return err
}

// watch gets hold of the successor's process, to know for certain when it is dead.
func (h *handover) watch(cred *unix.Ucred) error {
	if cred == nil || cred.Pid <= 0 {
		return errors.New("the successor's process is not to be seen from here: is it in another PID namespace?")
	}
	h.hello.PID = int(cred.Pid)
	fd, err := unix.PidfdOpen(h.hello.PID, 0)
	if err != nil {
		return fmt.Errorf("watch the successor's process %d: %w", h.hello.PID, err)
	}
	h.pidfd = fd
	return nil
}

// mayHandOver refuses what could not go on under a successor.
func (d *Daemon) mayHandOver(h *handover) error {
	st, err := d.store.Stat()
	if err != nil {
		return err
	}
	if st.ReadOnly != "" {
		return fmt.Errorf("the store takes no writes (%s): opened again, it is what was flushed last, and not what its "+
			"devices' users believe; unmount them, then varve stop", st.ReadOnly)
	}
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	if stopping {
		return protocol.ErrStopping
	}
	for _, k := range d.table.Served() {
		if k.Mark != 0 && k.Mark != d.inst.OldMark(k.Volume) && !h.hello.Marks {
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) was attached by version %s, and version %s can't take "+
				"it over; detach it first", k.Device, k.Volume, d.version, h.hello.Version))
		}
		if k.Transport != "ublk" {
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) is a %s device, and %w; detach it first",
				k.Device, k.Volume, k.Transport, devices.ErrCannotLeave))
		}
	}
	for _, m := range d.mounted() {
		if !h.hello.Remount && m.m.Busy() {
			return mountBusy(m.Dir)
		}
	}
	return nil
}

func mountBusy(dir string) error {
	return fmt.Errorf("%s: %w: %s; what is open below a mount can not be handed over: close it first, or use --remount "+
		"and it fails", dir, protocol.ErrBusy, holders.OfMount(dir))
}

// prepare does what can be done while I/O goes on. After an error everything is as before.
func (d *Daemon) prepare(ctx context.Context, h *handover) error {
	if err := d.mayHandOver(h); err != nil { // the socket is silent now: nothing changes any more
		return err
	}
	until, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for range settleRounds {
		began := time.Now()
		if err := d.store.Settle(until); err != nil {
			if until.Err() == nil {
				d.log.Warn("volumes do not settle before the upgrade; their journals are replayed", "error", err)
			}
			break
		}
		if time.Since(began) < quickRound || !h.link.alive() {
			break
		}
	}
	err := d.store.Quiet()
	if err == nil && ctx.Err() != nil {
		err = errors.New("got a signal to stop")
	}
	if err == nil && !h.link.alive() {
		err = errLinkClosed
	}
	if err != nil {
		d.store.Resume()
	}
	return err
}

// letGo unmounts, and leaves the devices to whoever opens the store next. If a mount does not go, an error says so, and
// everything is as before. What fails later is noted in h: then whoever comes next is this daemon again. The list of
// devices and mounts stays on disk as it is, for either of them.
func (d *Daemon) letGo(ctx context.Context, h *handover) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quiesceLimit)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	d.table.Freeze(true)
	mounts := d.mounted()
	for i, k := range mounts { // first: it can be taken back
		if err := d.letGoMount(k, h); err != nil {
			d.stay(mounts[:i])
			return err
		}
	}
	d.table.StopRetries()
	d.quiesce(ctx, h, d.table.Served()) // even if it is for ourselves: the store is closed in any case
	for name, t := range d.transports {
		if err := t.Close(); err != nil {
			d.log.Warn("close transport", "transport", name, "error", err)
		}
	}
	return nil
}

func (d *Daemon) letGoMount(k *mount, h *handover) error {
	err := d.unmount(k, false)
	if errors.Is(err, protocol.ErrBusy) {
		if !h.hello.Remount {
			return mountBusy(k.Dir) // since it was looked at
		}
		h.given.Notes = append(h.given.Notes, fmt.Sprintf("%s was in use (%s): what was open below it fails", k.Dir, holders.OfMount(k.Dir)))
		err = d.unmount(k, true)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", k.Dir, err)
	}
	return nil
}

// stay takes back what letGo has done, with the mounts that went; change is held.
func (d *Daemon) stay(gone []*mount) {
	d.mu.Lock()
	d.stopping = false
	d.mu.Unlock()
	for _, k := range gone {
		if err := d.mount(k.Mount); err != nil {
			d.log.Error("mount was not mounted again", "dir", k.Dir, "error", err)
		}
	}
	d.table.Freeze(false)
	d.store.Resume()
}

// quiesce has the I/O of all devices wait, all at once.
func (d *Daemon) quiesce(ctx context.Context, h *handover, list []*devices.Entry) {
	handed := make([]protocol.Handed, len(list))
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, k := range list {
		wg.Go(func() {
			handed[i] = protocol.Handed{Attachment: d.table.Describe(k), Quiesced: monotonic()}
			errs[i] = d.leave(ctx, k)
		})
	}
	wg.Wait()
	h.given.Devices = handed
	if err := errors.Join(errs...); err != nil {
		h.fail(fmt.Errorf("quiesce: %w", err))
	}
}

// monotonic is a clock that all processes of the machine share, in nanoseconds.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it is there
	return t.Nano()
}

// fail notes why the successor gets nothing.
func (h *handover) fail(err error) { h.err = errors.Join(h.err, err) }

// refuse tells the successor that it gets nothing.
func (h *handover) refuse(err error) {
	e, _ := protocol.NewError(err)
	if err := h.link.send(helloLimit, protocol.Given{Error: e}); err != nil && !errors.Is(err, errLinkClosed) {
		h.log.Warn("the successor was not told", "error", err)
	}
	h.close()
}

func (h *handover) close() {
	h.link.close()
	if h.pidfd >= 0 {
		_ = unix.Close(h.pidfd)
		h.pidfd = -1
	}
}

// give hands over the ownership of the store, once the store is closed. False: the successor does not serve and is dead; everything is
// this daemon's again.
func (h *handover) give(own *server.Ownership) bool {
	if h.err != nil {
		h.log.Error("upgrade failed; this daemon goes on", "error", h.err)
		h.refuse(h.err)
		return false
	}
	defer h.close()
	lock, socket := own.Descriptors()
	err := h.link.send(helloLimit, h.given, lock, socket)
	if err == nil {
		failpoint.Here(failpoint.UpgradeGiven)
		var taken protocol.Taken
		if err = h.link.receive(failpoint.Limit(takeLimit), &taken); err == nil && taken.Error == nil {
			return true
		}
		if taken.Error != nil {
			err = taken.Error
		}
	}
	h.log.Error("the successor did not take over; this daemon goes on", "pid", h.hello.PID, "error", err)
	h.bury()
	return false
}

// bury returns when the successor is dead, and helps it: as long as it lives it may write to the store.
func (h *handover) bury() {
	if h.awaitDeath(buryLimit) {
		return
	}
	h.log.Warn("the successor does not end by itself: killing it", "pid", h.hello.PID)
	for {
		if err := unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			h.log.Error("kill the successor", "pid", h.hello.PID, "error", err)
		}
		if h.awaitDeath(takeLimit) {
			return
		}
		h.log.Error("the successor is still alive: the store and its devices wait for its end", "pid", h.hello.PID)
	}
}

func (h *handover) awaitDeath(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; {
		p := []unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0).Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return n > 0
		}
	}
}
