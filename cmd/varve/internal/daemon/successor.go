package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// Predecessor is a daemon that is willing to hand over: the successor's side of a handover.
type Predecessor struct {
	link    *link
	offer   protocol.Offer
	given   protocol.Given
	version string // ours
}

// Approach asks the daemon of a store to hand over; nothing of it changes yet, and will not unless Run follows.
// client.ErrNoDaemon if there is none.
func Approach(ctx context.Context, dir, version string, remount bool) (*Predecessor, error) {
	if err := objstore.Check(dir); err != nil {
		return nil, err
	}
	c, err := client.DialSocket(ctx, dir)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no unix connection", c), c.Close())
	}
	p := &Predecessor{link: &link{conn: uc}, version: version}
	err = p.upgradeConn()
	if err == nil {
		err = p.link.send(helloLimit, protocol.Hello{Version: version, PID: os.Getpid(), Remount: remount, Marks: true})
	}
	if err == nil {
		err = p.link.receive(helloLimit, &p.offer)
	}
	if err == nil && p.offer.Error != nil {
		err = p.offer.Error
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// upgradeConn turns the connection from HTTP to the messages of a handover.
func (p *Predecessor) upgradeConn() error {
	if err := p.link.conn.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		return err
	}
	_, err := p.link.conn.Write([]byte("POST " + protocol.HandoverPath + " HTTP/1.1\r\nHost: varve\r\nConnection: Upgrade\r\nUpgrade: " +
		protocol.HandoverProtocol + "\r\nContent-Length: 0\r\n\r\n"))
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", closed(err))
	}
	resp, err := http.ReadResponse(bufio.NewReader(p.link.conn), nil) // it says no more than this before Hello
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", closed(err))
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	var e protocol.Error
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if json.Unmarshal(body, &e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return fmt.Errorf("the daemon that runs can not hand over (%w); stop it with varve stop, then start this one", &e)
}

// PID of the predecessor.
func (p *Predecessor) PID() int { return p.offer.PID }

// Flags of the predecessor's command line.
func (p *Predecessor) Flags() map[string]string { return p.offer.Flags }

// Close ends it; the predecessor goes on unless it has let go of the store already and Run has taken that.
func (p *Predecessor) Close() { p.link.close() }

// receive says that we are ready, and gets the ownership of the store, for which the predecessor has let go of its devices.
// errLinkClosed: it is dead.
func (p *Predecessor) receive(dir string, log *slog.Logger) (*server.Ownership, error) {
	err := p.link.send(helloLimit, protocol.Go{Ready: true})
	if err == nil {
		err = p.link.receive(2*takeLimit, &p.given)
	}
	if err != nil {
		return nil, err
	}
	if p.given.Error != nil {
		p.Close()
		return nil, p.given.Error
	}
	if n := len(p.link.files); n != 2 {
		p.Close()
		return nil, fmt.Errorf("the daemon handed over %d files; the lock and the socket make 2", n)
	}
	s := server.Inherit(dir, p.link.files[0], p.link.files[1], log)
	p.link.files = nil
	failpoint.Here(failpoint.UpgradeReceived)
	return s, nil
}

// refuse tells the predecessor that we can't, and gives why. Then this process must end: the predecessor waits
// for that. A nil Predecessor is none.
func (p *Predecessor) refuse(err error) error {
	if p == nil {
		return err
	}
	e, _ := protocol.NewError(err)
	_ = p.link.send(helloLimit, protocol.Taken{Error: e}) // our end tells it as well
	return fmt.Errorf("take over from process %d: %w", p.offer.PID, err)
}

// thank tells the predecessor that it may end, and waits a while for that.
func (p *Predecessor) thank() error {
	defer p.Close()
	err := p.link.send(helloLimit, protocol.Taken{})
	if err == nil {
		var none protocol.Taken
		err = p.link.receive(helloLimit, &none)
	}
	if errors.Is(err, errLinkClosed) {
		return nil // as it should; or it died before it heard of it
	}
	return err
}

// takeFrom takes all devices that the predecessor has let go of, or fails; and mounts what it had mounted. Nothing is
// thrown away, and the list on disk stays as it is, for the predecessor may have to go on.
func (d *Daemon) takeFrom(ctx context.Context, p *Predecessor) (*protocol.Upgraded, error) {
	s, err := devices.ReadList(d.files)
	if err != nil {
		return nil, err
	}
	s.Adopt(d.inst)
	s.Bind(d.inst, boot(d.log))
	d.change.Lock()
	defer d.change.Unlock()
	d.table.Freeze(true)
	report := &protocol.Upgraded{
		From:    protocol.Process{PID: p.offer.PID, Version: p.offer.Version},
		To:      protocol.Process{PID: os.Getpid(), Version: d.version},
		Devices: make([]protocol.UpgradedDevice, len(p.given.Devices)),
		Notes:   p.given.Notes,
	}
	d.expectHanded(p.given.Devices)
	errs := make([]error, len(p.given.Devices))
	takeSideBySide(len(errs), func(i int) { report.Devices[i], errs[i] = d.takeHanded(ctx, p.given.Devices[i]) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	report.Pause = protocol.PausesOf(report.Devices)
	handed := map[string]bool{}
	for _, h := range p.given.Devices {
		handed[h.Device] = true
	}
	d.leaveForeign(ctx, &s)
	there := d.takeWaiting(ctx, &s) // what the predecessor could not serve either
	maps.Copy(there, handed)
	d.discardGone(ctx, s.Attached, there)
	for _, m := range s.Mounts {
		if err := d.takeMount(m); err != nil {
			report.Notes = append(report.Notes, fmt.Sprintf("%s was not mounted again: %v", m.Dir, err))
			continue
		}
		report.Mounts = append(report.Mounts, m.Dir)
	}
	d.sweepScratch(ctx)
	d.table.Freeze(false)
	return report, nil
}

// expectHanded lists the devices that are handed over.
func (d *Daemon) expectHanded(handed []protocol.Handed) {
	list := make([]protocol.Attachment, len(handed))
	for i := range handed {
		h := &handed[i]
		if h.Mark == 0 && h.Transport == "ublk" { // of an older version, which knows no others
			h.Mark = d.inst.OldMark(h.Volume)
		}
		list[i] = h.Attachment
	}
	d.table.Expect(list)
}

func (d *Daemon) takeHanded(ctx context.Context, h protocol.Handed) (protocol.UpgradedDevice, error) {
	u := protocol.UpgradedDevice{Volume: h.Volume, Device: h.Device}
	t := d.transports[h.Transport]
	if t == nil {
		return u, fmt.Errorf("%s (volume %q): unknown transport %q", h.Device, h.Volume, h.Transport)
	}
	dev, err := t.Recover(ctx, h.Attachment)
	if err != nil {
		return u, fmt.Errorf("%s (volume %q): %w", h.Device, h.Volume, err)
	}
	u.Pause = time.Duration(monotonic() - h.Quiesced).Seconds()
	d.keep(h.Attachment, dev)
	d.log.Info("device handed over", "volume", h.Volume, "device", h.Device, "pause", u.Pause)
	return u, nil
}

// abandon lets go of what was taken so far: the predecessor takes it back.
func (d *Daemon) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quiesceLimit)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	d.table.Freeze(true)
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	d.table.StopRetries()
	for _, k := range d.table.Served() {
		if err := d.leave(ctx, k); err != nil && !errors.Is(err, devices.ErrUnquiet) {
			d.log.Error("device is not let go", "device", k.Device, "error", err)
		}
	}
}
