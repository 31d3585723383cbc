package blockdev

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Devices that do not answer are waited for together, and the others are listed all the same.
func TestListWithDevicesThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := make([]int, 20)
		for i := range ids {
			ids[i] = i
		}
		start := time.Now()
		list, err := describeAll(ids, func(id int) (DeviceInfo, error) {
			switch {
			case id == 3:
				return DeviceInfo{}, ErrNoDevice
			case id%2 == 1:
				time.Sleep(quickCommand)
				return DeviceInfo{}, ErrTimeout
			}
			return DeviceInfo{ID: id}, nil
		})
		if took := time.Since(start); took > quickCommand+2*time.Second {
			t.Errorf("it took %v", took)
		}
		if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrNoDevice) {
			t.Errorf("error %v", err)
		}
		if len(list) != 10 {
			t.Fatalf("%d devices: %v", len(list), list)
		}
		for i, d := range list {
			if d.ID != 2*i {
				t.Errorf("device %d of the list is %d", i, d.ID)
			}
		}
	})
}
