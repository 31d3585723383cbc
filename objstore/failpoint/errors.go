package failpoint

// Operations that VARVE_FAILPOINT_ERROR can make fail, for the first N times.
const (
	QuiesceFails Point = "quiesce" // QUIESCE_DEV is answered with EBUSY
	RecoverFails Point = "recover" // START_USER_RECOVERY
	QueueFails   Point = "queue"   // a queue, at a flush
	IndexFails   Point = "index"   // entering a segment's objects into the index
)
