package queue

// Part is what a disk or file system keeps for one queue. Its methods run on the queue's thread.
type Part interface {
	// NewHandler makes what serves one tag. Each handler serves one request at a time, and may keep what it needs
	// from one call to the next.
	NewHandler(tag uint16) Handler
	// Files are those that most secondaries go to, open until Close. They are registered with the ring, which saves
	// looking them up for each secondary.
	Files() []int
	// Close is called once, when no request is with a handler any more.
	Close() error
}

// Handlers is a Part that keeps nothing: the handlers know all that they need.
type Handlers struct {
	New func() Handler
	FDs []int // see Part.Files; may be nil
}

// NewHandler implements Part.
func (h Handlers) NewHandler(uint16) Handler { return h.New() }

// Files implements Part.
func (h Handlers) Files() []int { return h.FDs }

// Close implements Part.
func (h Handlers) Close() error { return nil }
