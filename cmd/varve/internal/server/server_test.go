package server

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoMayAsk(t *testing.T) {
	for _, c := range []struct {
		cred *unix.Ucred
		may  bool
	}{
		{nil, false},
		{&unix.Ucred{Uid: 0}, true},
		{&unix.Ucred{Uid: uint32(unix.Geteuid())}, true},
		{&unix.Ucred{Uid: 65534}, unix.Geteuid() == 65534},
	} {
		if err := mayAsk(context.WithValue(t.Context(), peerKey{}, c.cred)); (err == nil) != c.may {
			t.Errorf("%+v: %v", c.cred, err)
		}
	}
}
