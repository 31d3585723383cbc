package handover

import (
	"bytes"
	"testing"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// A predecessor or successor that says anything.
func FuzzConnection(f *testing.F) {
	f.Add([]byte("{\"pid\":7}\n{\"ready\":true}\n"))
	f.Add([]byte("{\"pid\":\n"))
	f.Add([]byte("\n\n\x00"))
	f.Add(bytes.Repeat([]byte("x"), 70000))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<17 {
			return
		}
		from, to := connectionPair(t)
		go func() {
			_, _ = from.socket.Write(b) // the other end may be closed before it is all read
			_ = from.socket.CloseWrite()
		}()
		for {
			var hello protocol.Hello
			var offer protocol.Offer
			var given protocol.Given
			if to.receive(10*time.Second, &hello) != nil || to.receive(10*time.Second, &offer) != nil || to.receive(10*time.Second, &given) != nil {
				break
			}
		}
		to.close()
		from.close()
	})
}
