package queue

import "testing"

// Every move that is not in the drawing of slotState panics.
func TestSlotMoves(t *testing.T) {
	for from := range slotStates {
		for to := range slotStates {
			func() {
				defer func() {
					if p := recover(); (p == nil) != slotMoves[from][to] {
						t.Errorf("%s -> %s: panic %v", slotNames[from], slotNames[to], p)
					}
				}()
				s := slot{state: from}
				s.move(to)
			}()
		}
	}
}
