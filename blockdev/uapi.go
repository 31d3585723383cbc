package blockdev

import (
	"structs"
	"unsafe"
)

// The user interface of the driver, include/uapi/linux/ublk_cmd.h of Linux 7.3. Constants and
// structs keep their C names; each struct is written once, and its size is asserted beside it.

// ioctl encodings, include/uapi/asm-generic/ioctl.h.
const (
	iocWrite = 1
	iocRead  = 2
)

const (
	ublkIOR  = iocRead<<30 | 'u'<<8
	ublkIOWR = (iocRead|iocWrite)<<30 | 'u'<<8

	sizeofCtrlCmd = 32
	sizeofIOCmd   = 16
	sizeofIODesc  = 24
)

// Control commands, sent to /dev/ublk-control.
const (
	_UBLK_U_CMD_GET_QUEUE_AFFINITY  = ublkIOR | sizeofCtrlCmd<<16 | 0x01
	_UBLK_U_CMD_GET_DEV_INFO        = ublkIOR | sizeofCtrlCmd<<16 | 0x02
	_UBLK_U_CMD_ADD_DEV             = ublkIOWR | sizeofCtrlCmd<<16 | 0x04
	_UBLK_U_CMD_DEL_DEV             = ublkIOWR | sizeofCtrlCmd<<16 | 0x05
	_UBLK_U_CMD_START_DEV           = ublkIOWR | sizeofCtrlCmd<<16 | 0x06
	_UBLK_U_CMD_STOP_DEV            = ublkIOWR | sizeofCtrlCmd<<16 | 0x07
	_UBLK_U_CMD_SET_PARAMS          = ublkIOWR | sizeofCtrlCmd<<16 | 0x08
	_UBLK_U_CMD_GET_PARAMS          = ublkIOR | sizeofCtrlCmd<<16 | 0x09
	_UBLK_U_CMD_START_USER_RECOVERY = ublkIOWR | sizeofCtrlCmd<<16 | 0x10
	_UBLK_U_CMD_END_USER_RECOVERY   = ublkIOWR | sizeofCtrlCmd<<16 | 0x11
	_UBLK_U_CMD_GET_FEATURES        = ublkIOR | sizeofCtrlCmd<<16 | 0x13
	_UBLK_U_CMD_DEL_DEV_ASYNC       = ublkIOR | sizeofCtrlCmd<<16 | 0x14
	_UBLK_U_CMD_UPDATE_SIZE         = ublkIOWR | sizeofCtrlCmd<<16 | 0x15
	_UBLK_U_CMD_QUIESCE_DEV         = ublkIOWR | sizeofCtrlCmd<<16 | 0x16
	_UBLK_U_CMD_TRY_STOP_DEV        = ublkIOWR | sizeofCtrlCmd<<16 | 0x17
)

// I/O commands, sent to /dev/ublkcN.
const (
	_UBLK_U_IO_FETCH_REQ            = ublkIOWR | sizeofIOCmd<<16 | 0x20
	_UBLK_U_IO_COMMIT_AND_FETCH_REQ = ublkIOWR | sizeofIOCmd<<16 | 0x21
)

const (
	_UBLK_FEATURES_LEN    = 8
	_UBLK_MAX_QUEUE_DEPTH = 4096

	// Layout of a position on /dev/ublkcN for user copy.
	_UBLKSRV_IO_BUF_OFFSET = 0x80000000
	_UBLK_TAG_OFF          = 25
	_UBLK_QID_OFF          = 41
	_UBLK_IO_BUF_MAX       = 1 << _UBLK_TAG_OFF

	_UBLK_AUTO_BUF_REG_FALLBACK = 1 << 0
)

// Feature flags.
const (
	_UBLK_F_SUPPORT_ZERO_COPY      = 1 << 0
	_UBLK_F_URING_CMD_COMP_IN_TASK = 1 << 1
	_UBLK_F_NEED_GET_DATA          = 1 << 2
	_UBLK_F_USER_RECOVERY          = 1 << 3
	_UBLK_F_USER_RECOVERY_REISSUE  = 1 << 4
	_UBLK_F_UNPRIVILEGED_DEV       = 1 << 5
	_UBLK_F_CMD_IOCTL_ENCODE       = 1 << 6
	_UBLK_F_USER_COPY              = 1 << 7
	_UBLK_F_ZONED                  = 1 << 8
	_UBLK_F_USER_RECOVERY_FAIL_IO  = 1 << 9
	_UBLK_F_UPDATE_SIZE            = 1 << 10
	_UBLK_F_AUTO_BUF_REG           = 1 << 11
	_UBLK_F_QUIESCE                = 1 << 12
	_UBLK_F_PER_IO_DAEMON          = 1 << 13
	_UBLK_F_BUF_REG_OFF_DAEMON     = 1 << 14
	_UBLK_F_BATCH_IO               = 1 << 15
	_UBLK_F_INTEGRITY              = 1 << 16
	_UBLK_F_SAFE_STOP_DEV          = 1 << 17
	_UBLK_F_NO_AUTO_PART_SCAN      = 1 << 18
	_UBLK_F_SHMEM_ZC               = 1 << 19
	_UBLK_F_IO_DESC_SIZE           = 1 << 20
)

// Device states.
const (
	_UBLK_S_DEV_DEAD     = 0
	_UBLK_S_DEV_LIVE     = 1
	_UBLK_S_DEV_QUIESCED = 2
	_UBLK_S_DEV_FAIL_IO  = 3
)

// Operations and flags of an io descriptor.
const (
	_UBLK_IO_OP_READ           = 0
	_UBLK_IO_OP_WRITE          = 1
	_UBLK_IO_OP_FLUSH          = 2
	_UBLK_IO_OP_DISCARD        = 3
	_UBLK_IO_OP_WRITE_ZEROES   = 5
	_UBLK_IO_OP_ZONE_OPEN      = 10
	_UBLK_IO_OP_ZONE_CLOSE     = 11
	_UBLK_IO_OP_ZONE_FINISH    = 12
	_UBLK_IO_OP_ZONE_APPEND    = 13
	_UBLK_IO_OP_ZONE_RESET_ALL = 14
	_UBLK_IO_OP_ZONE_RESET     = 15
	_UBLK_IO_OP_REPORT_ZONES   = 18

	_UBLK_IO_F_FUA          = 1 << 13
	_UBLK_IO_F_NOUNMAP      = 1 << 15
	_UBLK_IO_F_NEED_REG_BUF = 1 << 17
)

// Attributes and types of ublk_params.
const (
	_UBLK_ATTR_READ_ONLY      = 1 << 0
	_UBLK_ATTR_VOLATILE_CACHE = 1 << 2
	_UBLK_ATTR_FUA            = 1 << 3

	_UBLK_PARAM_TYPE_BASIC     = 1 << 0
	_UBLK_PARAM_TYPE_DISCARD   = 1 << 1
	_UBLK_PARAM_TYPE_DEVT      = 1 << 2
	_UBLK_PARAM_TYPE_ZONED     = 1 << 3
	_UBLK_PARAM_TYPE_DMA_ALIGN = 1 << 4
)

// ublksrv_ctrl_cmd lies at byte 48 of a control SQE.
type ublksrv_ctrl_cmd struct {
	_            structs.HostLayout
	dev_id       uint32
	queue_id     uint16
	len          uint16
	addr         uint64
	data         [1]uint64
	dev_path_len uint16
	pad          uint16
	reserved     uint32
}

type ublksrv_ctrl_dev_info struct {
	_                structs.HostLayout
	nr_hw_queues     uint16
	queue_depth      uint16
	state            uint16
	io_desc_size     uint16
	max_io_buf_bytes uint32
	dev_id           uint32
	ublksrv_pid      int32
	pad1             uint32
	flags            uint64
	ublksrv_flags    uint64
	owner_uid        uint32
	owner_gid        uint32
	reserved1        uint64
	reserved2        uint64
}

// ublksrv_io_desc lies in the memory that /dev/ublkcN maps, one for each tag. The driver writes it
// before the CQE of the fetch is posted, and doesn't touch it again until the tag is committed.
type ublksrv_io_desc struct {
	_            structs.HostLayout
	op_flags     uint32
	nr_sectors   uint32 // of a report: nr_zones, which are in a union
	start_sector uint64
	addr         uint64
}

// ublksrv_io_cmd lies at byte 48 of a fetch or commit SQE.
type ublksrv_io_cmd struct {
	_      structs.HostLayout
	q_id   uint16
	tag    uint16
	result int32
	addr   uint64 // of the answer of an append: zone_append_lba, in sectors, which are in a union
}

// ublk_auto_buf_reg is passed by value in sqe.addr.
type ublk_auto_buf_reg struct {
	_         structs.HostLayout
	index     uint16
	flags     uint8
	reserved0 uint8
	reserved1 uint32
}

type ublk_param_basic struct {
	_                  structs.HostLayout
	attrs              uint32
	logical_bs_shift   uint8
	physical_bs_shift  uint8
	io_opt_shift       uint8
	io_min_shift       uint8
	max_sectors        uint32
	chunk_sectors      uint32
	dev_sectors        uint64
	virt_boundary_mask uint64
}

type ublk_param_discard struct {
	_                        structs.HostLayout
	discard_alignment        uint32
	discard_granularity      uint32
	max_discard_sectors      uint32
	max_write_zeroes_sectors uint32
	max_discard_segments     uint16
	reserved0                uint16
}

type ublk_param_devt struct {
	_          structs.HostLayout
	char_major uint32
	char_minor uint32
	disk_major uint32
	disk_minor uint32
}

type ublk_param_zoned struct {
	_                       structs.HostLayout
	max_open_zones          uint32
	max_active_zones        uint32
	max_zone_append_sectors uint32
	reserved                [20]uint8
}

type ublk_param_dma_align struct {
	_         structs.HostLayout
	alignment uint32
	pad       [4]uint8
}

type ublk_param_segment struct {
	_                 structs.HostLayout
	seg_boundary_mask uint64
	max_segment_size  uint32
	max_segments      uint16
	pad               [2]uint8
}

// ublk_params ends before the integrity block of newer kernels: len tells the driver.
type ublk_params struct {
	_       structs.HostLayout
	len     uint32
	types   uint32
	basic   ublk_param_basic
	discard ublk_param_discard
	devt    ublk_param_devt
	zoned   ublk_param_zoned
	dma     ublk_param_dma_align
	seg     ublk_param_segment
}

// The kernel's sizes. A wrong one does not compile.
var (
	_ [sizeofCtrlCmd]byte = [unsafe.Sizeof(ublksrv_ctrl_cmd{})]byte{}
	_ [64]byte            = [unsafe.Sizeof(ublksrv_ctrl_dev_info{})]byte{}
	_ [sizeofIODesc]byte  = [unsafe.Sizeof(ublksrv_io_desc{})]byte{}
	_ [sizeofIOCmd]byte   = [unsafe.Sizeof(ublksrv_io_cmd{})]byte{}
	_ [8]byte             = [unsafe.Sizeof(ublk_auto_buf_reg{})]byte{}
	_ [32]byte            = [unsafe.Sizeof(ublk_param_basic{})]byte{}
	_ [20]byte            = [unsafe.Sizeof(ublk_param_discard{})]byte{}
	_ [16]byte            = [unsafe.Sizeof(ublk_param_devt{})]byte{}
	_ [32]byte            = [unsafe.Sizeof(ublk_param_zoned{})]byte{}
	_ [8]byte             = [unsafe.Sizeof(ublk_param_dma_align{})]byte{}
	_ [16]byte            = [unsafe.Sizeof(ublk_param_segment{})]byte{}
	_ [136]byte           = [unsafe.Sizeof(ublk_params{})]byte{}
)

// sqeAddr is ublk_auto_buf_reg_to_sqe_addr of the header.
func (r ublk_auto_buf_reg) sqeAddr() uint64 {
	return uint64(r.index) | uint64(r.flags)<<16 | uint64(r.reserved0)<<24 | uint64(r.reserved1)<<32
}

// userCopyPos is the position on /dev/ublkcN of a byte of a request, for pread and pwrite.
func userCopyPos(queue, tag uint16, off int) int64 {
	return _UBLKSRV_IO_BUF_OFFSET + int64(queue)<<_UBLK_QID_OFF + int64(tag)<<_UBLK_TAG_OFF + int64(off)
}

// roundUp returns the next multiple of a power of two.
func roundUp(n, to int) int { return (n + to - 1) &^ (to - 1) }
