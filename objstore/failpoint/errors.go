package failpoint

// Operations for VARVE_FAILPOINT_ERROR.
const (
	QuiesceFails Point = "quiesce" // QUIESCE_DEV is answered with EBUSY
)
