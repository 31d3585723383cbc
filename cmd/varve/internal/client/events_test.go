package client

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// An answer may be longer than an event may be: what is read of one does not count for the next.
func TestEventsAreBoundedEach(t *testing.T) {
	const event = `{"n":1}` + "\n"
	r := &eventReader{r: strings.NewReader(strings.Repeat(event, 1000))}
	d := json.NewDecoder(r)
	for i := range 1000 {
		r.left = len(event)
		var e struct{ N int }
		if err := d.Decode(&e); err != nil || e.N != 1 {
			t.Fatalf("event %d: %+v, %v", i, e, err)
		}
	}
	r = &eventReader{r: strings.NewReader(`{"n":"` + strings.Repeat("x", 1000) + `"}`), left: 999}
	var e any
	if err := json.NewDecoder(r).Decode(&e); !errors.Is(err, errLongEvent) {
		t.Errorf("an event that is too long: %v", err)
	}
}
