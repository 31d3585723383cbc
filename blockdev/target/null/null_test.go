package null_test

import (
	"testing"

	"varve/blockdev/target"
	"varve/blockdev/target/null"
	"varve/blockdev/target/targettest"
)

func TestConformance(t *testing.T) {
	targettest.Test(t, targettest.Options{
		Open:   func(*testing.T) target.Target { return null.New(4<<20, 512) },
		NoData: true, NoSecondaries: true,
	})
}
