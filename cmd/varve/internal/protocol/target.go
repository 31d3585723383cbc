package protocol

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// TargetTypes that a Target accepts.
var TargetTypes = []string{"null", "loop", "stripe", "mirror", "nbd", "qcow2"}

// Recoveries that a TargetDevice accepts, as of blockdev.Recovery.
var Recoveries = []string{"reissue", "fail-io", "none"}

// Target is what is behind a device without a volume. Zero values are the defaults.
type Target struct {
	Type      string   `json:"type"`                 // one of TargetTypes
	Files     []string `json:"files,omitempty"`      // files or block devices, absolute paths
	Size      int64    `json:"size,omitempty"`       // bytes; of a null device
	BlockSize int      `json:"block_size,omitempty"` // bytes: 512 or 4096
	ChunkSize int64    `json:"chunk_size,omitempty"` // bytes; of a stripe
	ReadOnly  bool     `json:"read_only,omitempty"`
	Buffered  bool     `json:"buffered,omitempty"` // files are read and written through the page cache
	Format    bool     `json:"format,omitempty"`   // make a new stripe, mirror or zoned disk of the files, whose content is lost
	// Of a mirror.
	RegionSize int64  `json:"region_size,omitempty"` // bytes
	Degraded   bool   `json:"degraded,omitempty"`    // use it although files are missing
	ResyncFrom string `json:"resync_from,omitempty"` // the one of Files whose content counts

	NBD
	Zones
}

// NBD is the export behind a target nbd. Files are absolute paths.
type NBD struct {
	URI         string `json:"uri,omitempty"`
	Connections int    `json:"connections,omitempty"`
	// How long a request waits for a lost server, and for an answer of one that is there.
	Timeout        int `json:"timeout_seconds,omitempty"`
	RequestTimeout int `json:"request_timeout_seconds,omitempty"`

	TLSCA       string `json:"tls_ca,omitempty"`
	TLSCert     string `json:"tls_cert,omitempty"`
	TLSKey      string `json:"tls_key,omitempty"`
	TLSHostname string `json:"tls_hostname,omitempty"`
}

// maxTimeout in seconds is the longest of an NBD target.
const maxTimeout = 24 * 60 * 60

func (n *NBD) check() error {
	for _, f := range []string{n.TLSCA, n.TLSCert, n.TLSKey} {
		if f != "" && (!filepath.IsAbs(f) || len(f) > maxPath || strings.ContainsRune(f, 0)) {
			return fmt.Errorf("file %q is not an absolute path", f)
		}
	}
	if n.URI == "" || len(n.URI) > maxPath {
		return errors.New("an nbd device needs one address, such as nbd://HOST/EXPORT")
	}
	if n.Connections < 0 || n.Connections > 64 {
		return fmt.Errorf("%d connections; use 1 to 64", n.Connections)
	}
	if n.Timeout < 0 || n.Timeout > maxTimeout {
		return fmt.Errorf("timeout %d s; use 1 s to 24 h", n.Timeout)
	}
	if n.RequestTimeout < 0 || n.RequestTimeout > maxTimeout {
		return fmt.Errorf("request timeout %d s; use 1 s to 24 h", n.RequestTimeout)
	}
	return nil
}

// String is the target in one word and its files, or its address.
func (t *Target) String() string {
	if t.Type == "nbd" {
		return t.Type + " " + t.URI
	}
	return strings.Join(append([]string{t.Type}, t.Files...), " ")
}

// Check returns an error if no target could be so.
func (t *Target) Check() error {
	if t.Type == "" {
		return fmt.Errorf("the target is missing; use one of %s", strings.Join(TargetTypes, ", "))
	}
	if !slices.Contains(TargetTypes, t.Type) {
		return fmt.Errorf("target %q; use one of %s", t.Type, strings.Join(TargetTypes, ", "))
	}
	if b := t.BlockSize; b != 0 && b != 512 && b != 4096 {
		return fmt.Errorf("block size %d; use 512 or 4096", b)
	}
	for _, f := range t.Files {
		if !filepath.IsAbs(f) || len(f) > maxPath || strings.ContainsRune(f, 0) {
			return fmt.Errorf("file %q is not an absolute path", f)
		}
	}
	if t.Type != "stripe" && t.ChunkSize != 0 {
		return errors.New("a chunk size is for the target stripe")
	}
	if t.Format && t.Type != "stripe" && t.Type != "mirror" && (t.Type != "loop" || !t.Zoned) {
		return errors.New("a format is for the targets stripe and mirror, and loop with --zoned")
	}
	if err := t.checkZones(); err != nil {
		return err
	}
	if t.Type != "mirror" && (t.RegionSize != 0 || t.Degraded || t.ResyncFrom != "") {
		return errors.New("a region size, --degraded and --resync-from are for the target mirror")
	}
	if t.Type != "null" && t.Size != 0 {
		return fmt.Errorf("a size is for the target null: a %s device has the size of what is behind it", t.Type)
	}
	if t.Type != "nbd" && t.NBD != (NBD{}) {
		return errors.New("an address, connections, timeouts and certificates are for the target nbd")
	}
	return t.checkType()
}

func (t *Target) checkType() error {
	switch n := len(t.Files); t.Type {
	case "null":
		if block := int64(max(t.BlockSize, 512)); n > 0 {
			return errors.New("files are for the targets loop, stripe, mirror and qcow2")
		} else if t.Size <= 0 || t.Size%block != 0 {
			return fmt.Errorf("size %d is not a positive multiple of the block size %d", t.Size, block)
		}
	case "loop":
		if n != 1 {
			return fmt.Errorf("%d files; a loop device needs one file or block device", n)
		}
	case "qcow2":
		if n != 1 {
			return fmt.Errorf("%d files; a qcow2 device needs one image, which names its backing files itself", n)
		}
	case "nbd":
		if n > 0 || t.Buffered {
			return errors.New("files and --buffered are not for the target nbd")
		}
		return t.check()
	case "stripe":
		if n < 2 {
			return fmt.Errorf("%d files; a stripe needs two or more files or block devices", n)
		}
	case "mirror":
		if n < 1 || t.Format && n < 2 {
			return fmt.Errorf("%d files; a mirror needs two or more files or block devices", n)
		}
	}
	return nil
}

// TargetDevice asks for a device over a target. Zero values are the defaults, but for ID.
type TargetDevice struct {
	Target
	ID       int    `json:"id"`                  // the N of /dev/ublkbN; -1: any that is free
	CopyMode string `json:"copy_mode,omitempty"` // one of CopyModes
	Queues   int    `json:"queues,omitempty"`
	Depth    int    `json:"depth,omitempty"`
	Recovery string `json:"recovery,omitempty"` // one of Recoveries
}

// Check returns an error if no device could be so.
func (d *TargetDevice) Check() error {
	if d.ID < -1 || d.ID >= 1<<20 {
		return fmt.Errorf("device number %d; use 0 to %d", d.ID, 1<<20-1)
	}
	if d.Recovery != "" && !slices.Contains(Recoveries, d.Recovery) {
		return fmt.Errorf("recovery %q; use one of %s", d.Recovery, strings.Join(Recoveries, ", "))
	}
	if err := CheckDevice(d.CopyMode, d.Queues, d.Depth); err != nil {
		return err
	}
	if d.Type == "null" && d.Zoned && d.Recovery != "none" {
		return errors.New("a zoned null device can't be recovered, since its zones are gone with its server; use the recovery none")
	}
	return d.Target.Check()
}

// TargetAdded is a device that a daemon serves over a target, with notes for the user.
type TargetAdded struct {
	Device   string   `json:"device"` // "/dev/ublkb0"
	ID       int      `json:"id"`
	CopyMode string   `json:"copy_mode"`
	Queues   int      `json:"queues"`
	Depth    int      `json:"depth"`
	Notes    []string `json:"notes,omitempty"`
}

// ServedTarget is a device without a volume that a daemon serves, or is to serve.
type ServedTarget struct {
	Device string `json:"device"` // "/dev/ublkb0"
	ID     int    `json:"id"`
	Target Target `json:"target"`
	Legs   []Leg  `json:"legs,omitempty"` // of a mirror that is served

	// Only in lists.
	State   string    `json:"state,omitempty"`   // StateServed or StateWaiting
	Error   string    `json:"error,omitempty"`   // why it is not served
	RetryAt time.Time `json:"retry_at,omitzero"` // the next try to serve it
}

// Leg is one of the files of a mirror, as of mirror.LegStatus.
type Leg struct {
	Leg    int    `json:"leg"`
	File   string `json:"file,omitempty"`   // not known of a leg that was out from the start
	State  string `json:"state"`            // "in-sync", "resyncing" or "out"
	Behind int64  `json:"behind,omitempty"` // bytes that it may lack
	Errors int64  `json:"errors,omitempty"` // requests to it that have failed, since the mirror is served
	Error  string `json:"error,omitempty"`  // why it is out
}
