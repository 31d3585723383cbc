package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

// begin starts, or takes over, the device of a disk.
type begin func(context.Context, *targets.Disk, blockdev.Options) (*blockdev.Device, error)

// serveTarget serves the device that begin starts: in this process; in a process of its own, in the
// background; or, if neither was asked for and the store has a daemon, in that.
func (a *app) serveTarget(cmd *cobra.Command, verb string, o *targetFlags, begin begin) error {
	if o.foreground {
		return a.serveHere(cmd, o, begin)
	}
	if !o.background {
		c, err := client.Dial(cmd.Context(), a.store)
		if err == nil {
			defer func() { _ = c.Close() }() // nothing is lost with it
			return a.askToServe(cmd, verb, c, &o.device)
		}
		if !errors.Is(err, client.ErrNoDaemon) {
			return err
		}
	}
	said, err := startInBackground(line(verb, a.store, &o.device), o.logFile)
	if err != nil {
		return err
	}
	node, notes, _ := strings.Cut(said, "\n")
	if notes != "" {
		writeNotes(cmd, strings.Split(notes, "\n"))
	}
	return a.showDevice(cmd, node)
}

// askToServe has the daemon serve the device.
func (a *app) askToServe(cmd *cobra.Command, verb string, c *client.Client, d *protocol.TargetDevice) error {
	ask := c.AddTarget
	if verb == "recover" {
		ask = c.RecoverTarget
	}
	added, err := ask(cmd.Context(), *d)
	if err != nil {
		return doing("serve "+d.Type+" device", err)
	}
	writeNotes(cmd, added.Notes)
	return a.showDevice(cmd, added.Device)
}

// showDevice prints the node of a new device, or with --json all about it.
func (a *app) showDevice(cmd *cobra.Command, node string) error {
	if !a.json {
		fmt.Fprintln(cmd.OutOrStdout(), node)
		return nil
	}
	id, err := deviceID(node)
	if err != nil {
		return err
	}
	i, err := blockdev.Peek(cmd.Context(), id)
	if err != nil {
		return doing("describe "+node, err)
	}
	return writeJSON(cmd.OutOrStdout(), ublkReport([]blockdev.DeviceInfo{i}, nil)[0])
}

func (a *app) serveHere(cmd *cobra.Command, o *targetFlags, begin begin) (err error) {
	say := readyPipe()
	defer func() {
		if err != nil {
			say(err.Error())
		}
	}()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	what := "serve " + o.device.Type + " device"
	log, err := newLogger(cmd.ErrOrStderr(), "info", "text")
	if err != nil {
		return err
	}
	disk, err := targets.Open(o.device.Target, a.store, log)
	if err != nil {
		return doing(what, err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	defer daemon.PrepareProcess(log, daemon.ProcessOptions{})()
	d := &o.device
	dev, err := begin(ctx, disk, blockdev.Options{
		ID: d.ID, Queues: d.Queues, Depth: d.Depth, CopyMode: blockdev.CopyMode(d.CopyMode), ReadOnly: d.ReadOnly,
		Recovery: blockdev.Recovery(d.Recovery), Owner: instance.Standalone, Logger: log,
	})
	if err != nil {
		return doing(what, err)
	}
	d.ID = dev.ID()
	if err := targets.Note(targets.Record{TargetDevice: *d}); err != nil {
		log.Warn("what the device is made of was not noted; recover needs --target and --file", "error", err)
	}
	log.Info("ready", "device", dev.Path(), "target", d.String(), "copy_mode", dev.Mode(), "queues", dev.Queues(), "depth", dev.Depth())
	notes := append(daemon.LessThanAsked(d.Queues, d.Depth, dev.Queues(), dev.Depth()), disk.Notes...)
	writeNotes(cmd, notes)
	if err := a.showDevice(cmd, dev.Path()); err != nil {
		log.Warn("the device was not described", "error", err)
	}
	say(strings.Join(append([]string{readyWord + " " + dev.Path()}, notes...), "\n"))
	var following sync.WaitGroup
	following.Go(func() { disk.Follow(ctx, dev, log) })
	err = awaitDevice(ctx, dev, d.Recovery != "none", log)
	following.Wait()
	return err
}

// awaitDevice waits for a signal or the device's end. A device that is open at the signal is left
// for varve ublk recover.
func awaitDevice(ctx context.Context, dev *blockdev.Device, recoverable bool, log *slog.Logger) error {
	select {
	case <-dev.Done():
		return dev.Wait()
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := dev.Stop(ctx, false)
	if err == nil {
		if err := targets.Forget(dev.ID()); err != nil {
			log.Warn("a note of the device is left over", "error", err)
		}
	}
	if errors.Is(err, blockdev.ErrBusy) {
		rest := fmt.Sprintf("its I/O waits for `varve ublk recover %d`, or `varve ublk del %d --force`", dev.ID(), dev.ID())
		if !recoverable {
			rest = fmt.Sprintf("its I/O fails from now on; `varve ublk del %d --force` removes it", dev.ID())
		}
		err = errors.Join(fmt.Errorf("%s is in use (%s): %s", dev.Path(), holders.OfDevice(dev.Path()), rest), dev.Quiesce(ctx))
	}
	return err
}
