package queue

// Stats counts what a device has done since this process serves it. Bytes are bytes, the rest are
// counts.
type Stats struct {
	Reads       uint64 `json:"reads"`
	ReadBytes   uint64 `json:"read_bytes"`
	Writes      uint64 `json:"writes"`
	WriteBytes  uint64 `json:"write_bytes"`
	Flushes     uint64 `json:"flushes"`
	Discards    uint64 `json:"discards"`
	WriteZeroes uint64 `json:"write_zeroes"`
	Secondaries uint64 `json:"secondaries"` // reads and writes of the target's files
	Copied      uint64 `json:"copied"`      // requests that went through a buffer of the daemon
	Handoffs    uint64 `json:"handoffs"`    // requests that a worker had to do a part of
	Errors      uint64 `json:"errors"`      // requests answered with an error
	Panics      uint64 `json:"panics"`      // requests whose serving panicked
}

func (s *Stats) add(o *Stats) {
	s.Reads += o.Reads
	s.ReadBytes += o.ReadBytes
	s.Writes += o.Writes
	s.WriteBytes += o.WriteBytes
	s.Flushes += o.Flushes
	s.Discards += o.Discards
	s.WriteZeroes += o.WriteZeroes
	s.Secondaries += o.Secondaries
	s.Copied += o.Copied
	s.Handoffs += o.Handoffs
	s.Errors += o.Errors
	s.Panics += o.Panics
}

// request counts a request that has come.
func (s *Stats) request(r *Request) {
	switch r.Op {
	case OpFlush:
		s.Flushes++
	case OpDiscard:
		s.Discards++
	case OpWriteZeroes:
		s.WriteZeroes++
	default:
		switch r.Op.Data() {
		case DataIn:
			s.Reads++
			s.ReadBytes += uint64(r.Len)
		case DataOut:
			s.Writes++
			s.WriteBytes += uint64(r.Len)
		case NoData:
		}
	}
}
