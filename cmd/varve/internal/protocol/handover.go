package protocol

import "slices"

// A handover is how one daemon's devices come to the next while they are in use. The successor, a new process, asks
// the predecessor by an HTTP request on its socket, and the connection becomes a stream of JSON messages, one a line:
//
//	successor                             predecessor
//	POST HandoverPath                ->
//	                                 <-   101 Switching Protocols
//	Hello                            ->
//	                                 <-   Offer, or a refusal
//	Go: it is ready to serve         ->
//	                                      requests end, volumes settle, then I/O waits:
//	                                      devices are quiesced, mounts unmounted, the store is closed
//	                                 <-   Given, and with it the store's lock and the listening socket
//	opens the store, takes devices
//	Taken, or why not                ->
//	                                      ends; or, at a refusal or the successor's death, opens the store
//	                                      again and takes its devices back
//
// It is spoken between different versions of varve, so it has a version of its own: fields may be added to the
// messages, and nothing that an older varve needs may go.
const (
	HandoverPath     = "/handover"
	HandoverProtocol = "varve-handover/1" // in the header Upgrade
)

// Hello is the successor's first word.
type Hello struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// Remount: a FUSE mount that is in use goes away, and comes back without what was open. Else it is refused.
	Remount bool `json:"remount"`
	// Marks: it takes devices by the mark that comes with them. Else it knows those of older versions alone.
	Marks bool `json:"marks"`
}

// Offer is what there is to take over, or why it is not given.
type Offer struct {
	Error   *Error            `json:"error,omitempty"`
	Version string            `json:"version"`
	PID     int               `json:"pid"`
	Flags   map[string]string `json:"flags"` // the limits and log of the daemon, as on its command line
	Devices []Attachment      `json:"devices"`
	Mounts  []Mount           `json:"mounts"`
}

// Go says that the successor has nothing left to do before it can serve.
type Go struct {
	Ready bool `json:"ready"`
}

// Given says that the store and the devices are the successor's, or why the predecessor goes on.
type Given struct {
	Error   *Error   `json:"error,omitempty"`
	Devices []Handed `json:"devices"`
	Notes   []string `json:"notes"`
}

// Handed is a device whose I/O waits.
type Handed struct {
	Attachment
	Quiesced int64 `json:"quiesced"` // when that began, in nanoseconds of CLOCK_MONOTONIC
}

// Taken says that the successor serves, or why it does not.
type Taken struct {
	Error *Error `json:"error,omitempty"`
}

// Upgraded is what a successor says of its takeover.
type Upgraded struct {
	From    Process          `json:"from"`
	To      Process          `json:"to"`
	Devices []UpgradedDevice `json:"devices"`
	Pause   *Pauses          `json:"pause,omitempty"` // of all devices; none: null
	Mounts  []string         `json:"mounts,omitempty"`
	Notes   []string         `json:"notes,omitempty"`
}

// Process is a daemon.
type Process struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// UpgradedDevice is a device that has a new server.
type UpgradedDevice struct {
	Volume string  `json:"volume"`
	Device string  `json:"device"`
	Pause  float64 `json:"pause_seconds"` // for which its I/O waited
}

// Pauses of several devices, in seconds.
type Pauses struct {
	P50 float64 `json:"p50_seconds"`
	Max float64 `json:"max_seconds"`
}

// PausesOf sums up; nil for no devices.
func PausesOf(devices []UpgradedDevice) *Pauses {
	if len(devices) == 0 {
		return nil
	}
	all := make([]float64, len(devices))
	for i, d := range devices {
		all[i] = d.Pause
	}
	slices.Sort(all)
	return &Pauses{P50: all[(len(all)-1)/2], Max: all[len(all)-1]}
}
