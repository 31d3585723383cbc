package devices

import "fmt"

// State is the state of a volume's device in the table.
type State uint8

// States of a volume's device.
const (
	None      State = iota // the volume has no device
	Attaching              // the device is being made
	Served                 // this daemon serves it
	Detaching              // this daemon removes it, or leaves it to the next daemon: its end is expected
	Waiting                // it is not served, and its I/O waits

	states
)

func (s State) String() string {
	return [states]string{"no device", "attaching", "served", "detaching", "waiting"}[s]
}

// transitions are all moves between states.
var transitions = [states][states]bool{
	None: {
		Attaching: true, // an attach begins
		Waiting:   true, // the kernel has a device of an earlier daemon
	},
	Attaching: {
		Served: true,
		None:   true, // the attach failed
	},
	Served: {
		Detaching: true,
		Waiting:   true, // its service has failed
	},
	Detaching: {
		None:    true,
		Served:  true, // it is in use, and stays
		Waiting: true, // left to the next daemon, or its service has failed meanwhile
	},
	Waiting: {
		Served:  true, // taken over
		Waiting: true, // retried later
		None:    true, // removed, or left to the daemon that serves it
	},
}

// move checks a transition. One that is not in the table is a bug in the caller, which did not own
// the device.
func move(volume string, from, to State) {
	if !transitions[from][to] {
		panic(fmt.Sprintf("device of volume %q: %v cannot become %v", volume, from, to))
	}
}
