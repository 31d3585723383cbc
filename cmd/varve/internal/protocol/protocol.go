// Package protocol defines the messages between the varve command and the daemon: JSON over HTTP on
// a unix socket in the store. Commands that run without a daemon use the same messages in-process.
//
//	GET    /v1/ping                       Ping
//	GET    /v1/stat                       Stat
//	PUT    /v1/max-size                   MaxSize        -> Stat
//	PATCH  /v1/maintenance                Maintenance    -> Stat
//	PUT    /v1/identity                   Identity       -> Identified
//	GET    /v1/volumes[?shares=true]      []Volume
//	POST   /v1/volumes                    CreateVolume   -> Volume
//	GET    /v1/volumes/NAME               Volume
//	PATCH  /v1/volumes/NAME               SetVolume      -> VolumeSet
//	DELETE /v1/volumes/NAME
//	GET    /v1/volumes/NAME/history       []objstore.SnapshotInfo
//	POST   /v1/prune                      Prune          -> Pruned
//	POST   /v1/volumes/NAME/repair        Repair         -> objstore.Repair
//	POST   /v1/volumes/NAME/clone         CloneVolume    -> Volume
//	POST   /v1/volumes/NAME/rollback      RollbackVolume -> RolledBack
//	POST   /v1/volumes/NAME/resize        ResizeVolume   -> Resized
//	POST   /v1/volumes/NAME/rename        Rename         -> Volume
//	POST   /v1/check                      CheckStore     -> CheckEvents, one per line
//	POST   /v1/reindex                    Reindex        -> ReindexEvents, one per line
//	POST   /v1/collect                    Collect        -> CollectEvents, one per line
//	POST   /v1/diff                       Diff           -> DiffEvents, one per line
//	GET    /v1/snapshots[?volume=NAME&shares=true] []objstore.SnapshotInfo
//	POST   /v1/snapshots                  CreateSnapshot -> objstore.SnapshotInfo
//	DELETE /v1/snapshots/VOLUME/NAME
//	POST   /v1/would-free                 WouldFree      -> objstore.Freed
//	POST   /v1/snapshots/VOLUME/NAME/rename  Rename      -> objstore.SnapshotInfo
//	GET    /v1/attachments                []Attachment
//	POST   /v1/attach                     Attach         -> Attached
//	POST   /v1/detach                     Detach         -> Attachment
//	POST   /v1/auto-detach                AutoDetach     -> Attachment
//	POST   /v1/targets                    TargetDevice   -> TargetAdded
//	POST   /v1/targets/recover            TargetDevice   -> TargetAdded
//	POST   /v1/mount                      Mount          -> Mount
//	POST   /v1/umount                     Unmount
//	POST   /v1/stop                       Stop           -> Stopped
//
// Every request and every response has Header. The body of a response with an HTTP status of 400 or
// more is an Error.
package protocol

import (
	"time"

	"varve/objstore"
)

const (
	// Version of the protocol. A client and a daemon of different versions refuse each other.
	Version = 1
	// Header names the HTTP header that holds Version.
	Header = "Varve-Protocol"
	// SocketName is the daemon's socket, relative to the store.
	SocketName = "varve.sock"
	// MaxBody bounds the body of a request, in bytes.
	MaxBody = 64 << 10
)

// Ping describes the daemon that answers.
type Ping struct {
	Protocol int       `json:"protocol"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Store    string    `json:"store"` // absolute path
	UUID     string    `json:"uuid"`
	Started  time.Time `json:"started"`
}

// MaxSize asks to limit the store's size on disk.
type MaxSize struct {
	Bytes int64 `json:"bytes"` // 0: no maximum
}

// Identity is a user's statement about a store that was copied or moved.
type Identity struct {
	// Moved: this is the store that attached the devices in its list, at another path.
	Moved bool `json:"moved"`
	// CopiedFrom is one of CopiedFroms, or empty.
	CopiedFrom string `json:"copied_from"`
	// NewUUID: the store is a copy, and gets its own UUID.
	NewUUID bool `json:"new_uuid"`
}

// Identified is the result of an Identity.
type Identified struct {
	UUID    string       `json:"uuid"`
	Volumes []string     `json:"volumes,omitempty"` // put into service
	Devices []Attachment `json:"devices,omitempty"` // that the next daemon takes over
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`       // bytes
	BlockSize int    `json:"block_size"` // bytes; 0 is the default
	Verify    bool   `json:"verify"`     // verify settled chunks when they are read
}

// SetVolume changes properties of a volume. A null leaves a property unchanged.
type SetVolume struct {
	Verify  *bool  `json:"verify"`
	Quota   *int64 `json:"quota,omitempty"`   // bytes; 0: none
	Reserve *int64 `json:"reserve,omitempty"` // bytes; 0: none
	RetentionChange
}

// VolumeSet is the result of a SetVolume.
type VolumeSet struct {
	Volume
	Notes []string `json:"notes,omitempty"` // a quota that is exceeded already
}

// RetentionChange changes parts of a volume's policy, as of objstore.Retention.
type RetentionChange struct {
	KeepLast      *int   `json:"keep_last"`
	KeepHourly    *int   `json:"keep_hourly"`
	KeepDaily     *int   `json:"keep_daily"`
	KeepWeekly    *int   `json:"keep_weekly"`
	SnapshotEvery *int64 `json:"snapshot_every"` // seconds
}

// Prune asks to drop what the policy of a volume does not keep, or of all volumes.
type Prune struct {
	Volume string `json:"volume,omitempty"` // empty: all
	DryRun bool   `json:"dry_run,omitempty"`
}

// Pruned is what a Prune has dropped, or with DryRun would drop.
type Pruned struct {
	States    []objstore.SnapshotInfo `json:"states"`
	Snapshots []objstore.SnapshotInfo `json:"snapshots"`
	Freed     *objstore.Freed         `json:"freed,omitempty"` // of a dry run
	Notes     []string                `json:"notes,omitempty"`
}

// Volume is a volume and the devices that it is attached to.
type Volume struct {
	objstore.VolumeInfo
	Attached []Attachment `json:"attached"`
}

// CloneVolume asks for a volume that begins with what a volume or one of its snapshots holds. The
// response is sent when that has settled.
type CloneVolume struct {
	Snapshot string `json:"snapshot,omitempty"` // empty: what the volume holds at the request
	Name     string `json:"name"`               // of the clone
}

// RollbackVolume asks to make a snapshot the content of its volume again. The response is sent when
// what is kept has settled.
type RollbackVolume struct {
	Snapshot   string `json:"snapshot"`
	NoSnapshot bool   `json:"no_snapshot,omitempty"` // do not keep the present state as a snapshot
}

// Rename asks for another name.
type Rename struct {
	To string `json:"to"`
}

// RolledBack is the result of a RollbackVolume.
type RolledBack struct {
	Volume
	// KeptSnapshot is the name of the snapshot that has the state before; empty: it was not kept.
	KeptSnapshot string `json:"kept_snapshot,omitempty"`
}

// ResizeVolume asks for another size of a volume.
type ResizeVolume struct {
	Size   int64 `json:"size"`             // bytes
	Shrink bool  `json:"shrink,omitempty"` // the size may be smaller; what lies beyond it is dropped
}

// Resized is the result of a ResizeVolume.
type Resized struct {
	Volume
	Notes []string `json:"notes,omitempty"` // a device that keeps its size, and why
}

// Repair asks what a repair of a damaged volume would lose, or with AcceptLoss for the repair.
type Repair struct {
	AcceptLoss bool `json:"accept_loss"`
}

// CheckEvent is a line of the response to a check: its progress, or at the end its report or error.
type CheckEvent struct {
	Progress *objstore.CheckProgress `json:"progress,omitempty"`
	Report   *objstore.CheckReport   `json:"report,omitempty"`
	Error    *Error                  `json:"error,omitempty"`
}

// CreateSnapshot asks for a snapshot. With Wait the response is sent when the snapshot has settled.
type CreateSnapshot struct {
	Volume string `json:"volume"`
	Name   string `json:"name"`
	Wait   bool   `json:"wait"`
}

// WouldFree asks what deleting volumes, with their snapshots, and snapshots together would free.
type WouldFree struct {
	Volumes   []string `json:"volumes"`
	Snapshots []string `json:"snapshots"` // VOLUME@SNAPSHOT
}

// Attach asks for a device. Zero values are the defaults.
type Attach struct {
	Volume    string `json:"volume"`
	Transport string `json:"transport"` // one of Transports
	CopyMode  string `json:"copy_mode"` // one of CopyModes
	Queues    int    `json:"queues"`
	Depth     int    `json:"depth"`
	ReadOnly  bool   `json:"read_only"`
	// Snapshot, if not empty, is the volume's snapshot to attach instead. Its device is read-only,
	// unless Writable: then writes are discarded when the device is detached.
	Snapshot string `json:"snapshot,omitempty"`
	Writable bool   `json:"writable,omitempty"`
	// Number is the number of the device, if it is free. Only the daemon itself sets it.
	Number *int `json:"-"`
}

// Attachment is a volume that is attached to a device.
type Attachment struct {
	Volume    string    `json:"volume"`
	Device    string    `json:"device"`    // "/dev/ublkb0", "/dev/loop3"
	Transport string    `json:"transport"` // "ublk" or "loop"
	ID        int       `json:"id"`        // the number in Device
	CopyMode  string    `json:"copy_mode,omitempty"`
	Queues    int       `json:"queues,omitempty"`
	Depth     int       `json:"depth,omitempty"`
	ReadOnly  bool      `json:"read_only"`
	Since     time.Time `json:"since"`
	// Snapshot is "VOLUME@SNAPSHOT" if the device shows a snapshot; Volume is then the scratch
	// volume over it.
	Snapshot string `json:"snapshot,omitempty"`
	// MountedAt is the directory at which the device is mounted, as AutoDetach reported it.
	MountedAt string `json:"mounted_at,omitempty"`
	// Mark identifies the device's owner in the driver. Used only between daemons.
	Mark uint64 `json:"mark,omitempty"`
	// VolumeID is the volume's UUID, by which the next daemon knows that a volume which is larger than
	// the device has grown, and is no other one. Used only between daemons.
	VolumeID string `json:"volume_id,omitempty"`

	// Only in lists.
	State   string    `json:"state,omitempty"`
	Error   string    `json:"error,omitempty"`   // why it is not served
	RetryAt time.Time `json:"retry_at,omitzero"` // the next try to serve it
}

// Shown returns the attachment as users see it.
func (a Attachment) Shown() Attachment {
	a.Mark, a.VolumeID = 0, ""
	return a
}

// States of an Attachment.
const (
	StateServed  = "served"
	StateWaiting = "waiting" // no daemon serves it, and its I/O waits
	StateForeign = "foreign" // it belongs to another store, of which this one may be a copy; see Stat.Foreign
)

// Attached is a new Attachment, with notes for the user.
type Attached struct {
	Attachment
	Notes []string `json:"notes,omitempty"`
}

// Detach asks to remove a device, by its volume, snapshot or device node.
type Detach struct {
	Target string `json:"target"`
	Force  bool   `json:"force"`
}

// AutoDetach asks for a device to be detached when the file system on it is unmounted.
type AutoDetach struct {
	Device string `json:"device"`
	Dir    string `json:"dir"` // the directory at which the client has mounted it
}

// Mount is a FUSE mount of the store, requested or existing.
type Mount struct {
	Dir        string `json:"dir"` // absolute
	AllowOther bool   `json:"allow_other"`
	// SharedLive lets live files be written while their volumes are attached.
	SharedLive bool `json:"shared_live,omitempty"`
}

// Unmount asks to end a Mount.
type Unmount struct {
	Dir string `json:"dir"`
}

// Stop asks the daemon to end. Without Detach, devices that are open remain for the next daemon.
type Stop struct {
	Detach bool `json:"detach"`
}

// Stopped says what became of the daemon's devices and mounts. The daemon ends after its response.
type Stopped struct {
	PID      int          `json:"pid"`
	Detached []Attachment `json:"detached,omitempty"`
	Left     []Attachment `json:"left,omitempty"` // open; their I/O waits for the next daemon
	// DetachedTargets and LeftTargets are the same of devices without a volume.
	DetachedTargets []ServedTarget `json:"detached_targets,omitempty"`
	LeftTargets     []ServedTarget `json:"left_targets,omitempty"`
	Unmounted       []string       `json:"unmounted,omitempty"`
	Notes           []string       `json:"notes,omitempty"`
}

// OpenFiles counts the daemon's file descriptors.
type OpenFiles struct {
	Open  int   `json:"open"`
	Limit int64 `json:"limit"` // of the process
}

// Stat is the store's statistics, and the daemon's devices and mounts.
type Stat struct {
	objstore.Stat
	Daemon *Ping `json:"daemon"` // null: no daemon is running
	// OpenFiles is omitted without a daemon.
	OpenFiles *OpenFiles   `json:"open_files,omitempty"`
	Attached  []Attachment `json:"attached"`
	// Foreign are devices in this store's list that it does not touch, because it is a copy of the
	// store that they belong to, or was moved.
	Foreign []Attachment `json:"foreign,omitempty"`
	Mounts  []Mount      `json:"mounts"`
	// Targets are the daemon's devices without a volume.
	Targets []ServedTarget `json:"targets,omitempty"`
	Swap    []Swap         `json:"swap"` // on devices of the daemon, which may hang the machine
}

// Swap is a swap area of this machine on a device of the daemon, or in one of its mounts.
type Swap struct {
	Area   string `json:"area"`   // as in /proc/swaps
	Device string `json:"device"` // "/dev/ublkb0", or the directory of a mount
	Volume string `json:"volume"` // "": the area is in a mount
	Used   int64  `json:"used"`   // bytes
}
