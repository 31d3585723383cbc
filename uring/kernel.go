//go:build linux

package uring

import "structs"

// Names and values of include/uapi/linux/io_uring.h (Linux 7.3); only what is used here.
const (
	IORING_OP_NOP         = 0
	IORING_OP_FSYNC       = 3
	IORING_OP_READ_FIXED  = 4
	IORING_OP_WRITE_FIXED = 5
	IORING_OP_POLL_ADD    = 6
	IORING_OP_FALLOCATE   = 17
	IORING_OP_READ        = 22
	IORING_OP_WRITE       = 23
	IORING_OP_SEND        = 26
	IORING_OP_RECV        = 27
	IORING_OP_URING_CMD   = 46
	IORING_OP_SEND_ZC     = 47

	IOSQE_FIXED_FILE       = 1 << 0
	IOSQE_IO_DRAIN         = 1 << 1
	IOSQE_IO_LINK          = 1 << 2
	IOSQE_IO_HARDLINK      = 1 << 3
	IOSQE_ASYNC            = 1 << 4
	IOSQE_CQE_SKIP_SUCCESS = 1 << 6

	IORING_FSYNC_DATASYNC = 1 << 0

	IORING_RECVSEND_FIXED_BUF = 1 << 2

	IORING_CQE_F_MORE  = 1 << 1
	IORING_CQE_F_NOTIF = 1 << 3

	IORING_SETUP_CQSIZE        = 1 << 3
	IORING_SETUP_SUBMIT_ALL    = 1 << 7
	IORING_SETUP_COOP_TASKRUN  = 1 << 8
	IORING_SETUP_TASKRUN_FLAG  = 1 << 9
	IORING_SETUP_SQE128        = 1 << 10
	IORING_SETUP_SINGLE_ISSUER = 1 << 12
	IORING_SETUP_DEFER_TASKRUN = 1 << 13

	IORING_ENTER_GETEVENTS = 1 << 0
	IORING_ENTER_EXT_ARG   = 1 << 3
	IORING_ENTER_NO_IOWAIT = 1 << 7 // Linux 6.15

	IORING_SQ_CQ_OVERFLOW = 1 << 1
	IORING_SQ_TASKRUN     = 1 << 2

	IORING_OFF_SQ_RING = 0
	IORING_OFF_SQES    = 0x10000000

	IORING_FEAT_SINGLE_MMAP = 1 << 0
	IORING_FEAT_NODROP      = 1 << 1
	IORING_FEAT_EXT_ARG     = 1 << 8
	IORING_FEAT_NO_IOWAIT   = 1 << 17

	IORING_REGISTER_BUFFERS        = 0
	IORING_REGISTER_FILES          = 2
	IORING_REGISTER_FILES_UPDATE   = 6
	IORING_REGISTER_BUFFERS2       = 15
	IORING_REGISTER_BUFFERS_UPDATE = 16

	IORING_RSRC_REGISTER_SPARSE = 1 << 0
)

// requiredFeatures are the features that waiting and overflow handling need; every kernel since
// 5.11 has them.
const requiredFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	_                                                           structs.HostLayout
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	userAddr                                                    uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	_                                                           structs.HostLayout
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	userAddr                                                    uint64
}

// params is struct io_uring_params.
type params struct {
	_            structs.HostLayout
	sqEntries    uint32
	cqEntries    uint32
	flags        uint32
	sqThreadCPU  uint32
	sqThreadIdle uint32
	features     uint32
	wqFD         uint32
	resv         [3]uint32
	sqOff        sqOffsets
	cqOff        cqOffsets
}

// geteventsArg is struct io_uring_getevents_arg.
type geteventsArg struct {
	_           structs.HostLayout
	sigmask     uint64
	sigmaskSize uint32
	minWaitUsec uint32
	ts          uint64
}

// kernelTimespec is struct __kernel_timespec.
type kernelTimespec struct {
	_    structs.HostLayout
	sec  int64
	nsec int64
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	_     structs.HostLayout
	nr    uint32
	flags uint32
	resv2 uint64
	data  uint64
	tags  uint64
}

// rsrcUpdate is struct io_uring_rsrc_update2; its first 16 bytes are struct io_uring_rsrc_update
// and io_uring_files_update.
type rsrcUpdate struct {
	_      structs.HostLayout
	offset uint32
	resv   uint32
	data   uint64
	tags   uint64
	nr     uint32
	resv2  uint32
}

// newParams translates options for io_uring_setup. With SUBMIT_ALL an invalid entry fails alone,
// with its own CQE. TASKRUN_FLAG tells Reap that completions are waiting for an enter.
func newParams(o Options) params {
	p := params{flags: IORING_SETUP_SUBMIT_ALL}
	if o.CQEntries != 0 {
		p.flags |= IORING_SETUP_CQSIZE
		p.cqEntries = o.CQEntries
	}
	for _, f := range []struct {
		on   bool
		flag uint32
	}{
		{o.SQE128, IORING_SETUP_SQE128},
		{o.SingleIssuer, IORING_SETUP_SINGLE_ISSUER},
		{o.DeferTaskrun, IORING_SETUP_DEFER_TASKRUN},
		{o.CoopTaskrun, IORING_SETUP_COOP_TASKRUN},
		{o.CoopTaskrun || o.DeferTaskrun, IORING_SETUP_TASKRUN_FLAG},
	} {
		if f.on {
			p.flags |= f.flag
		}
	}
	return p
}
