// Package protocol is what the varve command and the daemon say to each other: JSON over HTTP on a unix socket
// in the store. The same messages, answered in-process, serve the commands that run without a daemon.
//
//	GET    /v1/ping                       Ping
//	GET    /v1/stat                       Stat
//	PUT    /v1/max-size                   MaxSize        -> Stat
//	PUT    /v1/identity                   Identity       -> Identified
//	GET    /v1/volumes                    []Volume
//	POST   /v1/volumes                    CreateVolume   -> Volume
//	GET    /v1/volumes/NAME               Volume
//	PATCH  /v1/volumes/NAME               SetVolume      -> Volume
//	DELETE /v1/volumes/NAME
//	POST   /v1/volumes/NAME/repair        Repair         -> objstore.Repair
//	POST   /v1/check                      CheckEvents, one a line
//	GET    /v1/snapshots[?volume=NAME]    []objstore.SnapshotInfo
//	POST   /v1/snapshots                  CreateSnapshot -> objstore.SnapshotInfo
//	DELETE /v1/snapshots/VOLUME/NAME
//	GET    /v1/attachments                []Attachment
//	POST   /v1/attach                     Attach         -> Attached
//	POST   /v1/detach                     Detach         -> Attachment
//	POST   /v1/auto-detach                AutoDetach     -> Attachment
//	POST   /v1/mount                      Mount          -> Mount
//	POST   /v1/umount                     Unmount
//	POST   /v1/stop                       Stop           -> Stopped
//
// Every request and every answer carries Header. A refusal is an Error with an HTTP status of 400 and more.
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
	// MaxBody bounds a request's body in bytes.
	MaxBody = 64 << 10
)

// Ping says who answers.
type Ping struct {
	Protocol int       `json:"protocol"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Store    string    `json:"store"` // absolute path
	UUID     string    `json:"uuid"`
	Started  time.Time `json:"started"`
}

// MaxSize asks to bound what the store takes on disk.
type MaxSize struct {
	Bytes int64 `json:"bytes"` // 0: no maximum
}

// Identity is what somebody says of a store that was copied or moved.
type Identity struct {
	// Moved: it is the store that has attached the devices in its list, at another place.
	Moved bool `json:"moved"`
	// CopiedFrom is one of CopiedFroms; empty: nothing is said of it.
	CopiedFrom string `json:"copied_from"`
	// NewUUID: it is a copy, and gets a UUID of its own.
	NewUUID bool `json:"new_uuid"`
}

// Identified is what came of it.
type Identified struct {
	UUID    string       `json:"uuid"`
	Volumes []string     `json:"volumes,omitempty"` // taken into service
	Devices []Attachment `json:"devices,omitempty"` // the next daemon takes them
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`       // bytes
	BlockSize int    `json:"block_size"` // bytes; 0 is the default
	Verify    bool   `json:"verify"`     // check settled chunks as they are read
}

// SetVolume changes what can be changed of a volume; null stays as it is.
type SetVolume struct {
	Verify *bool `json:"verify"`
}

// Volume is a volume and where it is attached.
type Volume struct {
	objstore.VolumeInfo
	Attached []Attachment `json:"attached"`
}

// Repair asks what becomes of a damaged volume, or, with AcceptLoss, for it.
type Repair struct {
	AcceptLoss bool `json:"accept_loss"`
}

// CheckEvent is a line of the answer to a check: how far it is, or at the end what it has found or why it has ended.
type CheckEvent struct {
	Progress *objstore.CheckProgress `json:"progress,omitempty"`
	Report   *objstore.CheckReport   `json:"report,omitempty"`
	Error    *Error                  `json:"error,omitempty"`
}

// CreateSnapshot asks for a snapshot; with Wait the answer comes when it has settled.
type CreateSnapshot struct {
	Volume string `json:"volume"`
	Name   string `json:"name"`
	Wait   bool   `json:"wait"`
}

// Attach asks for a device node. Zero values are the defaults.
type Attach struct {
	Volume    string `json:"volume"`
	Transport string `json:"transport"` // one of Transports
	CopyMode  string `json:"copy_mode"` // one of CopyModes
	Queues    int    `json:"queues"`
	Depth     int    `json:"depth"`
	ReadOnly  bool   `json:"read_only"`
	// Snapshot of the volume that is asked for in its place; read-only, unless Writable: then what is written is gone
	// when the device is detached.
	Snapshot string `json:"snapshot,omitempty"`
	Writable bool   `json:"writable,omitempty"`
	// Number is the device's, if it is free. The daemon's own.
	Number *int `json:"-"`
}

// Attachment is a volume on a device node.
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
	// Snapshot is "VOLUME@SNAPSHOT" where the device shows one; Volume is the throwaway layer over it then.
	Snapshot string `json:"snapshot,omitempty"`
	// MountedAt is the directory at which AutoDetach says that the device was mounted.
	MountedAt string `json:"mounted_at,omitempty"`
	// Mark is what the driver keeps with the device to say whose it is; between daemons alone.
	Mark uint64 `json:"mark,omitempty"`

	// In lists alone.
	State   string    `json:"state,omitempty"`
	Error   string    `json:"error,omitempty"`   // why nobody serves it
	RetryAt time.Time `json:"retry_at,omitzero"` // when serving it is tried again
}

// Shown is the attachment as users see it.
func (a Attachment) Shown() Attachment {
	a.Mark = 0
	return a
}

// States of an Attachment.
const (
	StateServed  = "served"
	StateWaiting = "waiting" // nobody serves it, and its I/O waits
	StateForeign = "foreign" // another store's, which this one may be a copy of; see Stat.Foreign
)

// Attached is an Attachment that was just made, with what the user should know about it.
type Attached struct {
	Attachment
	Notes []string `json:"notes,omitempty"`
}

// Detach names a volume, a snapshot, or a device node.
type Detach struct {
	Target string `json:"target"`
	Force  bool   `json:"force"`
}

// AutoDetach asks for a device to be detached when the file system on it is unmounted.
type AutoDetach struct {
	Device string `json:"device"`
	Dir    string `json:"dir"` // where the client has mounted it
}

// Mount is a FUSE mount of the store, asked for or present.
type Mount struct {
	Dir        string `json:"dir"` // absolute
	AllowOther bool   `json:"allow_other"`
	// SharedLive lets live files be written while their volumes have devices.
	SharedLive bool `json:"shared_live,omitempty"`
}

// Unmount names a Mount.
type Unmount struct {
	Dir string `json:"dir"`
}

// Stop asks the daemon to end. Devices that are open stay for the next daemon, unless Detach.
type Stop struct {
	Detach bool `json:"detach"`
}

// Stopped says what became of the daemon's devices and mounts. The daemon ends after it has answered.
type Stopped struct {
	PID       int          `json:"pid"`
	Detached  []Attachment `json:"detached,omitempty"`
	Left      []Attachment `json:"left,omitempty"` // open; their I/O waits for the next daemon
	Unmounted []string     `json:"unmounted,omitempty"`
	Notes     []string     `json:"notes,omitempty"`
}

// OpenFiles are the daemon's descriptors.
type OpenFiles struct {
	Open  int   `json:"open"`
	Limit int64 `json:"limit"` // of the process
}

// Stat is the store in figures, and what the daemon does with it.
type Stat struct {
	objstore.Stat
	Daemon *Ping `json:"daemon"` // null: none runs
	// OpenFiles is left out without a daemon.
	OpenFiles *OpenFiles   `json:"open_files,omitempty"`
	Attached  []Attachment `json:"attached"`
	// Foreign are devices that this store does not touch although its list has them: it is a copy of the one that they
	// belong to, or was moved.
	Foreign []Attachment `json:"foreign,omitempty"`
	Mounts  []Mount      `json:"mounts"`
	Swap    []Swap       `json:"swap"` // on devices of the daemon: a danger
}

// Swap is a swap area of this machine that lies on a device of the daemon, or in one of its mounts.
type Swap struct {
	Area   string `json:"area"`   // as in /proc/swaps
	Device string `json:"device"` // "/dev/ublkb0", or the directory of a mount
	Volume string `json:"volume"` // "": it lies in a mount
	Used   int64  `json:"used"`   // bytes
}
