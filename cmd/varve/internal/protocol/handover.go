package protocol

import "slices"

// A handover passes the devices of one daemon to the next while they are in use. The successor, a
// new process, sends an HTTP request to the predecessor's socket, and the connection becomes a
// stream of JSON messages, one per line:
//
//	successor                             predecessor
//	POST HandoverPath                ->
//	                                 <-   101 Switching Protocols
//	Hello                            ->
//	                                 <-   Offer, or an error
//	Go: it is ready to serve         ->
//	                                      requests end, volumes settle, then I/O waits:
//	                                      devices are quiesced, mounts unmounted, the store is closed
//	                                 <-   Given, with the store's lock and the listening socket
//	opens the store, takes devices
//	Taken, or an error               ->
//	                                      ends; or, after an error or the successor's death, opens the
//	                                      store again and takes its devices back
//
// Different versions of varve use this protocol with each other, so it has a version of its own:
// fields may be added to the messages, but no field that an older version needs may be removed.
const (
	HandoverPath     = "/handover"
	HandoverProtocol = "varve-handover/1" // in the header Upgrade
)

// Hello is the successor's first message.
type Hello struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// Remount: FUSE mounts that are in use are remounted, without the files that are open.
	// Otherwise they make the predecessor refuse.
	Remount bool `json:"remount"`
	// Marks: the successor recognizes devices by their Mark. Otherwise it knows only the marks of
	// older versions.
	Marks bool `json:"marks"`
	// Targets: the successor takes over devices without a volume, by the records of them.
	Targets bool `json:"targets"`
}

// Offer lists what the predecessor would hand over, or says why it does not.
type Offer struct {
	Error   *Error            `json:"error,omitempty"`
	Version string            `json:"version"`
	PID     int               `json:"pid"`
	Flags   map[string]string `json:"flags"` // the daemon's flags for limits and log
	Devices []Attachment      `json:"devices"`
	Mounts  []Mount           `json:"mounts"`
}

// Go says that the successor is ready to serve.
type Go struct {
	Ready bool `json:"ready"`
}

// Given says that the store and the devices belong to the successor, or why the predecessor keeps
// them.
type Given struct {
	Error   *Error   `json:"error,omitempty"`
	Devices []Handed `json:"devices"`
	Notes   []string `json:"notes"`
	// Targets is null from a version that does not list them.
	Targets []HandedTarget `json:"targets"`
}

// HandedTarget is a device without a volume whose I/O waits.
type HandedTarget struct {
	ID       int   `json:"id"`
	Quiesced int64 `json:"quiesced"` // as in Handed
}

// Handed is a device whose I/O waits.
type Handed struct {
	Attachment
	Quiesced int64 `json:"quiesced"` // the time since which it waits, in nanoseconds of CLOCK_MONOTONIC
}

// Taken says that the successor serves, or why it does not.
type Taken struct {
	Error *Error `json:"error,omitempty"`
}

// Upgraded is a successor's report on its takeover.
type Upgraded struct {
	From    Process          `json:"from"`
	To      Process          `json:"to"`
	Devices []UpgradedDevice `json:"devices"`
	Targets []UpgradedTarget `json:"targets,omitempty"`
	Pause   *Pauses          `json:"pause,omitempty"` // of all devices; omitted if there are none
	Mounts  []string         `json:"mounts,omitempty"`
	Notes   []string         `json:"notes,omitempty"`
}

// Process is a daemon.
type Process struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// UpgradedDevice is a device that was taken over.
type UpgradedDevice struct {
	Volume string  `json:"volume"`
	Device string  `json:"device"`
	Pause  float64 `json:"pause_seconds"` // the time for which its I/O waited
}

// UpgradedTarget is a device without a volume that was taken over.
type UpgradedTarget struct {
	Device string  `json:"device"`
	Target string  `json:"target"`        // its type and files
	Pause  float64 `json:"pause_seconds"` // the time for which its I/O waited; 0 if it is unknown
}

// Pauses summarizes the pauses of several devices, in seconds.
type Pauses struct {
	P50 float64 `json:"p50_seconds"`
	Max float64 `json:"max_seconds"`
}

// PausesOf returns the pauses of devices, or nil if there are none.
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
