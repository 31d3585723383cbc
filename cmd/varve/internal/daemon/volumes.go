package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

func (d *Daemon) serveStat(ctx context.Context, _ *http.Request, _ server.None) (protocol.Stat, error) {
	st, err := d.store.CountedStat(ctx)
	if err != nil {
		return protocol.Stat{}, err
	}
	if st.PerVolume == nil {
		st.PerVolume = []objstore.VolumeInfo{}
	}
	s := protocol.Stat{Stat: st, Swap: []protocol.Swap{}}
	s.Attached, s.Mounts, s.Foreign = d.table.Shown(), d.mounts.list(), d.table.Foreign()
	for i := range s.Foreign {
		s.Foreign[i] = s.Foreign[i].Shown()
	}
	if d.isDaemon() {
		p := d.ping()
		s.Daemon, s.Path = &p, p.Store
		swap, _ := d.swaps.list() // an error is in the log
		s.Swap = append(s.Swap, swap...)
		s.Targets = d.targets.shown()
		if use, err := d.open.use(0); err == nil {
			s.OpenFiles = &use
		}
	}
	return s, nil
}

func (d *Daemon) serveMaxSize(ctx context.Context, r *http.Request, m protocol.MaxSize) (protocol.Stat, error) {
	if err := d.store.SetMaxSize(ctx, m.Bytes); err != nil {
		return protocol.Stat{}, err
	}
	d.log.Info("maximum size set", "bytes", m.Bytes)
	return d.serveStat(ctx, r, server.None{})
}

func (d *Daemon) serveVolumes(ctx context.Context, r *http.Request, _ server.None) (_ []protocol.Volume, err error) {
	var infos []objstore.VolumeInfo
	if wantShares(r) {
		infos, err = d.store.SharedVolumes(ctx)
	} else {
		infos = d.store.Volumes()
	}
	if err != nil {
		return nil, err
	}
	list := make([]protocol.Volume, 0, len(infos))
	for _, v := range infos {
		list = append(list, d.volume(v))
	}
	return list, nil
}

// wantShares reports whether the request asks for the share of each image, which may take a moment.
func wantShares(r *http.Request) bool { return r.URL.Query().Get("shares") == "true" }

// volumeName returns the volume's name in the request's path.
func volumeName(r *http.Request) (string, error) {
	name := r.PathValue("name")
	if err := protocol.CheckName(name); err != nil {
		return "", fmt.Errorf("%w volume %q: %w", objstore.ErrInvalid, name, err)
	}
	return name, nil
}

func (d *Daemon) serveVolume(ctx context.Context, r *http.Request, _ server.None) (protocol.Volume, error) {
	name, err := volumeName(r)
	if err != nil {
		return protocol.Volume{}, err
	}
	v, err := d.store.SharedVolume(ctx, name)
	if err != nil {
		return protocol.Volume{}, err
	}
	return d.volume(v), nil
}

// volume adds the volume's device, if it has one.
func (d *Daemon) volume(v objstore.VolumeInfo) protocol.Volume {
	out := protocol.Volume{VolumeInfo: v, Attached: []protocol.Attachment{}}
	if out.Users == nil {
		out.Users = []string{}
	}
	for _, a := range d.table.Shown() {
		if a.Volume == v.Name {
			out.Attached = append(out.Attached, a)
		}
	}
	return out
}

func (d *Daemon) serveCreateVolume(ctx context.Context, _ *http.Request, c protocol.CreateVolume) (protocol.Volume, error) {
	v, err := d.store.CreateVolume(ctx, c.Name, objstore.VolumeOptions{Size: c.Size, BlockSize: c.BlockSize, Verify: c.Verify})
	if err != nil {
		return protocol.Volume{}, err
	}
	d.log.Info("volume created", "volume", v.Name, "size", v.Size, "block_size", v.BlockSize)
	return d.volume(v), nil
}

func (d *Daemon) serveSetVolume(ctx context.Context, r *http.Request, c protocol.SetVolume) (protocol.VolumeSet, error) {
	name, err := volumeName(r)
	if err != nil {
		return protocol.VolumeSet{}, err
	}
	change := objstore.VolumeChange{Verify: c.Verify, Quota: c.Quota, Reserve: c.Reserve}
	if c.ChangesRetention() {
		change.Retention = c.Retention
	}
	v, err := d.store.SetVolume(ctx, name, change)
	if err != nil {
		return protocol.VolumeSet{}, err
	}
	d.log.Info("volume changed", "volume", name, "verify", v.Verify, "quota", v.Quota, "reserve", v.Reserve, "policy", v.Policy)
	out := protocol.VolumeSet{Volume: d.volume(v)}
	if note := quotaNote(v); note != "" && c.Quota != nil {
		out.Notes = append(out.Notes, note)
	}
	return out, nil
}

// quotaNote says that a volume has more than its quota, or may have, since what has not settled may
// overwrite what has; "": it has not.
func quotaNote(v objstore.VolumeInfo) string {
	what := ""
	switch {
	case v.Quota == 0 || v.Logical+v.Tail <= v.Quota:
		return ""
	case v.Logical > v.Quota:
		what = fmt.Sprintf("already refers to %d bytes", v.Logical)
	default:
		what = fmt.Sprintf("may refer to %d bytes when it has settled", v.Logical+v.Tail)
	}
	return fmt.Sprintf("volume %s %s, more than the quota of %d: writes that would make it grow fail until it has less", v.Name, what, v.Quota)
}

func (d *Daemon) serveDeleteVolume(ctx context.Context, r *http.Request, _ server.None) (server.None, error) {
	name, err := volumeName(r)
	if err != nil {
		return server.None{}, err
	}
	ctx, give, err := d.turns.take(ctx, turnOf(name)) // no attach begins meanwhile
	if err != nil {
		return server.None{}, err
	}
	defer give()
	if a, taken := d.table.Taken(name); taken {
		return server.None{}, fmt.Errorf("delete volume %q: %w: attached as %s; detach it first", name, objstore.ErrInUse, a.Device)
	}
	if err := d.store.DeleteVolume(ctx, name); err != nil {
		return server.None{}, d.whoHas(name, err)
	}
	d.log.Info("volume deleted", "volume", name)
	return server.None{}, nil
}

// whoHas adds the processes that have the volume's files open in mounts, if that is why the volume
// is in use.
func (d *Daemon) whoHas(volume string, err error) error {
	v, verr := d.store.VolumeInfo(volume)
	if !errors.Is(err, objstore.ErrInUse) || verr != nil || !slices.Contains(v.Users, "fuse") {
		return err
	}
	var who []string
	for _, m := range d.mounts.all() {
		path := filepath.Join(m.Dir, "volumes", volume)
		who = append(who, path+": "+holders.OfPath(m.Dir, path))
	}
	if who == nil {
		return err
	}
	return fmt.Errorf("%w (%s); close that first", err, strings.Join(who, "; "))
}

func (d *Daemon) serveSnapshots(ctx context.Context, r *http.Request, _ server.None) ([]objstore.SnapshotInfo, error) {
	volume := r.URL.Query().Get("volume")
	if volume != "" {
		if err := protocol.CheckName(volume); err != nil {
			return nil, fmt.Errorf("%w volume %q: %w", objstore.ErrInvalid, volume, err)
		}
	}
	find := d.store.Snapshots
	if wantShares(r) {
		find = func(volume string) ([]objstore.SnapshotInfo, error) { return d.store.SharedSnapshots(ctx, volume) }
	}
	list, err := find(volume)
	if list == nil {
		list = []objstore.SnapshotInfo{}
	}
	return list, err
}

func (d *Daemon) serveCreateSnapshot(ctx context.Context, _ *http.Request, c protocol.CreateSnapshot) (objstore.SnapshotInfo, error) {
	s, err := d.store.CreateSnapshot(ctx, c.Volume, c.Name)
	if err != nil {
		return s, err
	}
	d.log.Info("snapshot created", "snapshot", c.Volume+"@"+c.Name)
	if !c.Wait {
		return s, nil
	}
	return d.store.WaitSnapshot(ctx, c.Volume, c.Name)
}

func (d *Daemon) serveDeleteSnapshot(ctx context.Context, r *http.Request, _ server.None) (server.None, error) {
	n := objstore.ImageName{Volume: r.PathValue("volume"), Snapshot: r.PathValue("name")}
	if err := protocol.CheckImage(n); err != nil {
		return server.None{}, fmt.Errorf("%w: %w", objstore.ErrInvalid, err)
	}
	if err := d.deleteSnapshot(ctx, n.Volume, n.Snapshot); err != nil {
		return server.None{}, err
	}
	d.log.Info("snapshot deleted", "snapshot", n.String())
	return server.None{}, nil
}
