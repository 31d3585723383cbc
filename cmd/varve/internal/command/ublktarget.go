package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/protocol"
)

// targetFlags are the flags of a command that serves a target.
type targetFlags struct {
	device     protocol.TargetDevice
	files      []string
	size       size
	blockSize  size
	chunkSize  size
	regionSize size
	resyncFrom string
	zoneSize   size
	zeroCopy   bool
	userCopy   bool
	recovery   recovery
	foreground bool
	background bool
	logFile    string
	nbd        struct{ timeout, requestTimeout time.Duration }
}

// recovery is a flag's value: one of protocol.Recoveries, or 0 or 1, as other programs have it.
type recovery string

// Set implements pflag.Value.
func (r *recovery) Set(v string) error {
	switch v {
	case "0", "none":
		*r = "none"
	case "1", "reissue":
		*r = "reissue"
	case "fail-io":
		*r = "fail-io"
	default:
		return fmt.Errorf("%q; use one of %s, or 1 or 0", v, strings.Join(protocol.Recoveries, ", "))
	}
	return nil
}

func (r *recovery) String() string { return string(*r) }

// Type implements pflag.Value.
func (r *recovery) Type() string { return "recovery" }

// add adds the flags that add and recover have in common.
func (o *targetFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.device.Type, "target", "t", "", "the target: "+strings.Join(protocol.TargetTypes, ", "))
	f.StringArrayVarP(&o.files, "file", "f", nil, "a `file` or block device of a loop, stripe or mirror, an image, or the URI of an nbd export; may be repeated, and be given as an argument")
	f.Var(&o.blockSize, "block-size", "logical block size: 512 or 4096; what the files want by default")
	f.BoolVar(&o.device.Buffered, "buffered", false, "read and write files through the page cache")
	f.StringVar(&o.device.CopyMode, "copy-mode", "auto", "how ublk moves data: "+strings.Join(protocol.CopyModes, ", "))
	f.BoolVarP(&o.zeroCopy, "zero-copy", "z", false, "--copy-mode zero")
	f.BoolVarP(&o.userCopy, "user-copy", "u", false, "--copy-mode user")
	f.BoolVar(&o.device.Degraded, "degraded", false, "use a mirror although files are missing; they have to be resynced when they are back")
	f.StringVar(&o.resyncFrom, "resync-from", "", "the `file` of a mirror whose content counts; the others get it, and lose theirs")
	f.BoolVar(&o.foreground, "foreground", false, "serve the device in this process, until Ctrl-C")
	f.BoolVar(&o.background, backgroundFlag, false, "serve the device in a process of its own, although the store has a daemon")
	f.StringVar(&o.logFile, "log-file", "/dev/null", "the `file` for the log of a process in the background")
	f.IntVar(&o.device.Connections, "connections", 0, "`number` of connections to an NBD server (default one for each queue)")
	f.DurationVar(&o.nbd.timeout, "timeout", 0, "how long an NBD request waits for a lost server before it fails (default 1m)")
	f.DurationVar(&o.nbd.requestTimeout, "request-timeout", 0, "how long an NBD server may take to answer before its connection is given up (default 5m)")
	f.StringVar(&o.device.TLSCA, "tls-ca", "", "the `file` with the certificate authorities of an NBD server")
	f.StringVar(&o.device.TLSCert, "tls-cert", "", "the `file` with the certificate for an NBD server")
	f.StringVar(&o.device.TLSKey, "tls-key", "", "the `file` with that certificate's key")
	f.StringVar(&o.device.TLSHostname, "tls-hostname", "", "the `name` in an NBD server's certificate (default the address's)")
	f.BoolVar(&o.device.Zoned, "zoned", false, "a null or loop device has zones that are written from their start on")
	complete(cmd, "target", protocol.TargetTypes)
	complete(cmd, "copy-mode", protocol.CopyModes)
}

// addNew adds the flags of a new device.
func (o *targetFlags) addNew(cmd *cobra.Command) {
	o.add(cmd)
	f := cmd.Flags()
	f.VarP(&o.size, "size", "s", "size of a null device (default 1GiB)")
	f.Var(&o.chunkSize, "chunk-size", "bytes in a row on one file of a stripe, from 4KiB to 4MiB (default 64KiB)")
	f.BoolVar(&o.device.Format, "format", false, "make a new stripe, mirror or zoned disk of the files, whose content is lost")
	f.Var(&o.regionSize, "region-size", "bytes of a new mirror that are resynced at least, from 64KiB to 1GiB (default 1MiB or more)")
	f.Var(&o.zoneSize, "zone-size", "bytes of a new zoned disk's zones: a power of two from 64KiB to 64GiB (default 256MiB)")
	f.IntVar(&o.device.Conventional, "conventional", 0, "how many of a new zoned disk's zones, the first `number`, are written anywhere")
	f.IntVar(&o.device.MaxOpenZones, "max-open-zones", 0, "largest `number` of open zones of a new zoned disk (0: any)")
	f.IntVar(&o.device.MaxActiveZones, "max-active-zones", 0, "largest `number` of open and closed zones of a new zoned disk (0: any)")
	f.IntVarP(&o.device.Queues, "queues", "q", 0, "`number` of queues, each with its own thread (0: the default)")
	f.IntVarP(&o.device.Depth, "depth", "d", 0, "largest `number` of requests in flight in a queue (0: the default)")
	f.BoolVar(&o.device.ReadOnly, "read-only", false, "refuse writes")
	f.VarP(&o.recovery, "recovery", "r",
		"`what` becomes of I/O when the device's server dies: reissue, fail-io or none; 1 and 0 are reissue and none (default reissue)")
	f.Lookup("recovery").NoOptDefVal = "reissue"
	complete(cmd, "recovery", protocol.Recoveries)
}

// take completes the device from the flags and arguments.
func (o *targetFlags) take(cmd *cobra.Command, args []string) error {
	d := &o.device
	if err := o.takeFiles(append(o.files, o.takeRecovery(cmd, args)...)); err != nil {
		return err
	}
	if o.resyncFrom != "" {
		d.ResyncFrom = absolute(o.resyncFrom)
	}
	d.RegionSize = int64(o.regionSize)
	d.Size, d.BlockSize, d.ChunkSize, d.Recovery = int64(o.size), int(min(o.blockSize, 1<<30)), int64(o.chunkSize), string(o.recovery)
	if err := errors.Join(o.takeZones(cmd), o.takeCopyMode(cmd)); err != nil {
		return err
	}
	if o.foreground && o.background {
		return usagef("both --foreground and --background")
	}
	if d.Type == "" {
		return usagef("--target is missing; use one of %s", strings.Join(protocol.TargetTypes, ", "))
	}
	if (d.Type == "loop" || d.Type == "qcow2") && len(d.Files) == 0 {
		return usagef("--file is missing: a %s device needs a file", d.Type)
	}
	if d.Type == "null" && d.Size == 0 && !cmd.Flags().Changed("size") {
		d.Size = 1 << 30
	}
	if err := d.Check(); err != nil {
		return &usageError{err}
	}
	return nil
}

// takeZones completes a zoned device.
func (o *targetFlags) takeZones(cmd *cobra.Command) error {
	d := &o.device
	d.ZoneSize = int64(o.zoneSize)
	if !d.Zoned {
		return nil // Check says what is not for others
	}
	if d.Type == "loop" && !d.Format {
		for _, flag := range []string{"zone-size", "conventional", "max-open-zones", "max-active-zones"} {
			if f := cmd.Flags().Lookup(flag); f != nil && f.Changed {
				return usagef("--%s is for a new zoned disk (--format): another has the zones that it was made with", flag)
			}
		}
		return nil
	}
	if d.ZoneSize == 0 && (cmd.Flags().Lookup("zone-size") == nil || !cmd.Flags().Changed("zone-size")) {
		d.ZoneSize = defaultZone
	}
	if d.Type == "null" && d.Recovery == "" {
		d.Recovery = "none" // its zones are gone with its server
	}
	return nil
}

// defaultZone is the size of a zone, in bytes: that of most zoned hard disks.
const defaultZone = 256 << 20

// absolute returns the absolute path of a file, or the path as it is, where there is no working
// directory any more: opening it says so.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// takeFiles takes the files, or the address of an NBD server. A process in the background has another
// working directory.
func (o *targetFlags) takeFiles(files []string) error {
	d := &o.device
	if d.Type == "nbd" && len(files) > 0 {
		d.URI, files = files[0], files[1:]
	}
	d.Files = append(d.Files, files...)
	for i, f := range d.Files {
		d.Files[i] = absolute(f)
	}
	for _, f := range []*string{&d.TLSCA, &d.TLSCert, &d.TLSKey} {
		if *f != "" {
			*f = absolute(*f)
		}
	}
	var err error
	if d.Timeout, err = seconds("--timeout", o.nbd.timeout); err != nil {
		return err
	}
	d.RequestTimeout, err = seconds("--request-timeout", o.nbd.requestTimeout)
	return err
}

// seconds are those of the value of a flag.
func seconds(flag string, d time.Duration) (int, error) {
	if d%time.Second != 0 || d < 0 {
		return 0, usagef("%s %v; use whole seconds", flag, d)
	}
	return int(d / time.Second), nil
}

// takeRecovery takes the value of -r from the arguments, where the kernel's program has it: -r 1.
func (o *targetFlags) takeRecovery(cmd *cobra.Command, args []string) []string {
	if !cmd.Flags().Changed("recovery") || len(args) == 0 || args[0] != "0" && args[0] != "1" {
		return args
	}
	_ = o.recovery.Set(args[0]) // it is one of the values
	return args[1:]
}

func (o *targetFlags) takeCopyMode(cmd *cobra.Command) error {
	given := 0
	for flag, mode := range map[string]string{"zero-copy": "zero", "user-copy": "user", "copy-mode": o.device.CopyMode} {
		if !cmd.Flags().Changed(flag) {
			continue
		}
		if on := flag == "copy-mode" || flag == "zero-copy" && o.zeroCopy || flag == "user-copy" && o.userCopy; on {
			given++
			o.device.CopyMode = mode
		}
	}
	if given > 1 {
		return usagef("-z, -u and --copy-mode exclude each other")
	}
	return nil
}

// line is the command line that serves a device in the foreground.
func line(verb string, store string, d *protocol.TargetDevice) []string {
	args := []string{"ublk", verb, "--foreground", "--store=" + store, "--target=" + d.Type}
	add := func(flag string, given bool, value any) {
		if given {
			args = append(args, fmt.Sprintf("--%s=%v", flag, value))
		}
	}
	add("number", d.ID != noNumber, d.ID)
	add("size", d.Size != 0 && verb == "add", d.Size)
	add("block-size", d.BlockSize != 0, d.BlockSize)
	add("chunk-size", d.ChunkSize != 0, d.ChunkSize)
	add("region-size", d.RegionSize != 0 && verb == "add", d.RegionSize)
	add("format", d.Format, true)
	add("degraded", d.Degraded, true)
	add("resync-from", d.ResyncFrom != "", d.ResyncFrom)
	add("zoned", d.Zoned, true)
	if d.Zoned && verb == "add" && (d.Type == "null" || d.Format) {
		add("zone-size", true, d.ZoneSize)
		add("conventional", d.Conventional != 0, d.Conventional)
		add("max-open-zones", d.MaxOpenZones != 0, d.MaxOpenZones)
		add("max-active-zones", d.MaxActiveZones != 0, d.MaxActiveZones)
	}
	add("read-only", d.ReadOnly && verb == "add", true)
	add("buffered", d.Buffered, true)
	add("copy-mode", d.CopyMode != "", d.CopyMode)
	add("queues", d.Queues != 0 && verb == "add", d.Queues)
	add("depth", d.Depth != 0 && verb == "add", d.Depth)
	add("connections", d.Connections != 0, d.Connections)
	add("timeout", d.Timeout != 0, time.Duration(d.Timeout)*time.Second)
	add("request-timeout", d.RequestTimeout != 0, time.Duration(d.RequestTimeout)*time.Second)
	add("tls-ca", d.TLSCA != "", d.TLSCA)
	add("tls-cert", d.TLSCert != "", d.TLSCert)
	add("tls-key", d.TLSKey != "", d.TLSKey)
	add("tls-hostname", d.TLSHostname != "", d.TLSHostname)
	add("file", d.URI != "", d.URI)
	add("recovery", d.Recovery != "" && verb == "add", d.Recovery)
	for _, f := range d.Files {
		add("file", true, f)
	}
	return args
}

// errNoFiles is for a command that was given no files and does not know them.
var errNoFiles = errors.New("what it is made of is not known; give --target and --file as when it was added")
