package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// Predecessor is a daemon that is willing to hand over: the successor's side of a handover.
type Predecessor struct {
	Given protocol.Given // what it hands over; set by Receive

	conn  *connection
	offer protocol.Offer
}

// Approach asks the daemon of a store to hand over. The daemon goes on unchanged until Receive.
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
	p := &Predecessor{conn: &connection{socket: uc}}
	err = p.upgradeConn()
	if err == nil {
		err = p.conn.send(helloLimit, protocol.Hello{Version: version, PID: os.Getpid(), Remount: remount, Marks: true, Targets: true})
	}
	if err == nil {
		err = p.conn.receive(helloLimit, &p.offer)
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
	if err := p.conn.socket.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		return err
	}
	_, err := p.conn.socket.Write([]byte("POST " + protocol.HandoverPath + " HTTP/1.1\r\nHost: varve\r\nConnection: Upgrade\r\nUpgrade: " +
		protocol.HandoverProtocol + "\r\nContent-Length: 0\r\n\r\n"))
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", closed(err))
	}
	resp, err := http.ReadResponse(bufio.NewReader(p.conn.socket), nil) // nothing else is sent before Hello
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
	return fmt.Errorf("the running daemon cannot hand over (%w); stop it with varve stop, then start this one", &e)
}

// Receive says that this process is ready, and receives the ownership of the store, after the
// predecessor has quiesced its devices. ErrClosed: it is dead.
func (p *Predecessor) Receive(dir string, log *slog.Logger) (*server.Ownership, error) {
	err := p.conn.send(helloLimit, protocol.Go{Ready: true})
	if err == nil {
		err = p.conn.receive(2*takeLimit, &p.Given)
	}
	if err != nil {
		return nil, err
	}
	if p.Given.Error != nil {
		p.Close()
		return nil, p.Given.Error
	}
	if n := len(p.conn.files); n != 2 {
		p.Close()
		return nil, fmt.Errorf("the daemon handed over %d files; want 2, the lock and the socket", n)
	}
	s := server.Inherit(dir, p.conn.files[0], p.conn.files[1], log)
	p.conn.files = nil
	failpoint.Here(failpoint.UpgradeReceived)
	return s, nil
}

// Refuse tells the predecessor that this process cannot take over, and returns err with context.
// Then this process must end: the predecessor waits for that. On a nil Predecessor, Refuse returns
// err.
func (p *Predecessor) Refuse(err error) error {
	if p == nil {
		return err
	}
	e, _ := protocol.NewError(err)
	_ = p.conn.send(helloLimit, protocol.Taken{Error: e}) // the end of this process tells it as well
	return fmt.Errorf("take over from process %d: %w", p.offer.PID, err)
}

// Thank tells the predecessor that it may end, and waits some time for that.
func (p *Predecessor) Thank() error {
	defer p.Close()
	err := p.conn.send(helloLimit, protocol.Taken{})
	if err == nil {
		var none protocol.Taken
		err = p.conn.receive(helloLimit, &none)
	}
	if errors.Is(err, ErrClosed) {
		return nil // as expected, or it died before it read the message
	}
	return err
}

// PID of the predecessor.
func (p *Predecessor) PID() int { return p.offer.PID }

// Version of the predecessor.
func (p *Predecessor) Version() string { return p.offer.Version }

// Flags of the predecessor's command line.
func (p *Predecessor) Flags() map[string]string { return p.offer.Flags }

// Close ends the handover. The predecessor goes on, unless it has already handed over the store.
func (p *Predecessor) Close() { p.conn.close() }
