package journal

import (
	"testing"
	"time"
)

// A commit of an older version has no time, and nothing is made of that.
func TestCommitWithoutTime(t *testing.T) {
	r := Record{Type: Commit, Sector: 7}
	if !r.CommitTime().IsZero() {
		t.Errorf("it is of %v", r.CommitTime())
	}
	now := time.Now()
	r = NewCommit(7, false, now)
	b := make([]byte, RecordSize)
	r.encode(b, 3)
	back, err := decodeRecord(b, 3)
	if err != nil || !back.CommitTime().Equal(now) || back.Sector != 7 {
		t.Errorf("%+v of %v, %v; want %v", back, back.CommitTime(), err, now)
	}
}
