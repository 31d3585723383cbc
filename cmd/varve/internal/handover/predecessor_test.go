package handover

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// A daemon that hands over by another protocol, or does not know how, is named, and told apart from
// none.
func TestApproachOtherProtocol(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		words  []string
	}{
		{"another version", func(w http.ResponseWriter, _ *http.Request) {
			server.Answer(w, http.StatusUpgradeRequired, &protocol.Error{Message: `handover protocol "varve-handover/1"; this daemon knows "varve-handover/9"`})
		}, []string{"cannot hand over", "varve-handover/9", "varve stop"}},
		{"before there were handovers", http.NotFound, []string{"cannot hand over", "404", "varve stop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(dir, protocol.SocketName))
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: c.answer}
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(l) }()
			t.Cleanup(func() { _ = srv.Close(); <-done })
			p, err := Approach(t.Context(), dir, "x", false)
			if err == nil {
				p.Close()
				t.Fatal("such a daemon hands over")
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
		})
	}
}
