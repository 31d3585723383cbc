package protocol

import "varve/objstore"

// Collect asks to settle what was written, and to free what nothing refers to. With Wait the events
// end when that is done, otherwise at once. A dry run, which is always waited for, settles and frees
// nothing.
type Collect struct {
	Wait   bool `json:"wait"`
	DryRun bool `json:"dry_run,omitempty"`
}

// CollectEvent is a line of the response.
type CollectEvent = Event[objstore.CollectState, Collected]

// Collected is the result of a Collect.
type Collected struct {
	Complete bool                    `json:"complete"`         // false: the collection runs in the background
	Report   *objstore.CollectReport `json:"report,omitempty"` // nil unless Complete
}
