package lincheck

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// cells of a register.
const cells = 8

// SectorSize is the register of Check: 8 cells of 64 bytes.
const SectorSize = cells * CellSize

// state of a register: the value of each cell.
type state [cells]Value

// input is an operation on a register.
type input struct {
	kind  kind
	first int // cells
	n     int
	value Value
}

type kind uint8

const (
	read kind = iota
	write
	maybeWrite // it may have taken effect, or not
	maybeAgain // a write that has taken effect may have done so once more
)

// output is what a read has returned, in the cells that were read.
type output state

var registers = porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, in, out any) []any {
		before, i := s.(state), in.(input)
		after := before
		switch i.kind {
		case read:
			got := out.(output)
			if !slices.Equal(got[i.first:i.first+i.n], before[i.first:i.first+i.n]) {
				return nil
			}
			return []any{before}
		case write, maybeWrite, maybeAgain:
			for c := i.first; c < i.first+i.n; c++ {
				after[c] = i.value
			}
		}
		if i.kind != write && after != before {
			return []any{before, after}
		}
		return []any{after}
	},
	Equal: func(a, b any) bool { return a.(state) == b.(state) },
	DescribeOperation: func(in, out any) string {
		i := in.(input)
		switch at := fmt.Sprintf("[%d,%d)", i.first, i.first+i.n); i.kind {
		case write:
			return fmt.Sprintf("write %v %v", at, i.value)
		case maybeWrite, maybeAgain:
			return fmt.Sprintf("write %v %v?", at, i.value)
		default:
			got := out.(output)
			return fmt.Sprintf("read %v %v", at, got[i.first:i.first+i.n])
		}
	},
	DescribeState: func(s any) string { return fmt.Sprint(s) },
}

var model = registers.ToModel()

// What Check may find.
var (
	// ErrNotLinearizable: there is no order of the requests that explains what was read.
	ErrNotLinearizable = errors.New("not linearizable")
	// ErrUndecided: the time was not enough.
	ErrUndecided = errors.New("not decided in time")
)

// Report says how much was checked.
type Report struct {
	Requests, Registers, Operations int
	Unknown                         int // writes whose outcome nobody knows
	Twice                           int // operations that may have taken effect once more
	Kills                           int
}

// Check checks every sector.
func (h *History) Check(limit time.Duration) (Report, error) { return h.CheckAs(SectorSize, limit) }

// CheckAs takes registers of another size, a multiple of SectorSize: requests have to be atomic for
// each of these. Then a cell of the model is as much larger, and all requests have to begin and end
// at one.
func (h *History) CheckAs(register int64, limit time.Duration) (Report, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{Requests: len(h.ops), Kills: len(h.kills)}
	if h.bad != nil {
		return r, fmt.Errorf("%w: %w", ErrNotLinearizable, h.bad)
	}
	ops := map[int64][]porcupine.Operation{}
	for i := range h.ops {
		if err := h.split(&h.ops[i], register, ops, &r); err != nil {
			return r, err
		}
	}
	numbers := make([]int64, 0, len(ops))
	for n := range ops {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	r.Registers = len(numbers)
	deadline := time.Now().Add(limit)
	for _, n := range numbers {
		ops[n] = settled(ops[n])
		r.Operations += len(ops[n])
		switch porcupine.CheckOperationsTimeout(model, ops[n], max(time.Until(deadline), 1)) {
		case porcupine.Ok:
		case porcupine.Unknown:
			return r, fmt.Errorf("register at byte %d, %d operations: %w", n*register, len(ops[n]), ErrUndecided)
		default:
			return r, fmt.Errorf("%w: register at byte %d:\n%s", ErrNotLinearizable, n*register, explain(ops[n], limit))
		}
	}
	return r, nil
}

// split makes operations on registers out of a request.
func (h *History) split(o *op, register int64, ops map[int64][]porcupine.Operation, r *Report) error {
	if o.death == Cut && h.overtaken(o) {
		o.unknown = true
	}
	main, ret := write, o.ret
	switch {
	case !o.write && o.unknown:
		return nil
	case !o.write:
		main = read
	case o.unknown:
		r.Unknown++
		main = maybeWrite
		if o.ended {
			break
		}
		if ret = h.deathAfter(o.call); ret == math.MaxInt64 {
			return fmt.Errorf("client %d: a write of %d bytes at %d failed, and no kill explains it", o.client, o.length, o.off)
		}
	}
	size := register / cells
	for at := o.off; at < o.off+o.length; {
		n := at / register
		end := min(o.off+o.length, (n+1)*register)
		in := input{kind: main, first: int(at % register / size), n: int((end - at) / size), value: o.value}
		if at%size != 0 || end%size != 0 {
			return fmt.Errorf("client %d: a request of %d bytes at %d does not fit cells of %d bytes", o.client, o.length, o.off, size)
		}
		var out output
		for c := 0; main == read && c < in.n; c++ {
			part := o.read[(at-o.off+int64(c)*size)/CellSize:][:size/CellSize]
			if slices.ContainsFunc(part, func(v Value) bool { return v != part[0] }) {
				return fmt.Errorf("%w: client %d read a torn cell at %d: %v", ErrNotLinearizable, o.client, at+int64(c)*size, part)
			}
			out[in.first+c] = part[0]
		}
		ops[n] = append(ops[n], porcupine.Operation{ClientId: max(o.client, 0), Input: in, Output: out, Call: o.call, Return: ret})
		if o.death == Reissued && main == write {
			in.kind = maybeAgain
			for _, k := range h.kills {
				if o.call < k.end && o.ret > k.end { // what is answered before was done once
					r.Twice++
					ops[n] = append(ops[n], porcupine.Operation{ClientId: max(o.client, 0), Input: in, Output: out, Call: o.call, Return: k.end})
				}
			}
		}
		at = end
	}
	return nil
}

// settled decides the writes of which nobody knows whether they took effect, as far as reads tell:
// no two writes have the same value, so that one whose value was read has taken effect, before that
// read returned, and one whose value was never read makes no difference. Undecided, each of them
// would double the states that a register may be in. Zeroes stay undecided: they tell nothing.
func settled(ops []porcupine.Operation) []porcupine.Operation {
	seen := map[Value]int64{}
	for _, o := range ops {
		if i := o.Input.(input); i.kind == read {
			got := o.Output.(output)
			for _, v := range got[i.first : i.first+i.n] {
				if t, ok := seen[v]; !ok || o.Return < t {
					seen[v] = o.Return
				}
			}
		}
	}
	kept := ops[:0]
	for _, o := range ops {
		if i := o.Input.(input); i.kind == maybeWrite && i.value != 0 {
			t, ok := seen[i.value]
			if !ok {
				continue
			}
			i.kind = write
			o.Input = i
			if t > o.Call { // else it is read before it began, which the check finds
				o.Return = min(o.Return, t)
			}
		}
		kept = append(kept, o)
	}
	return kept
}

// deathAfter returns the end of the first kill after a moment.
func (h *History) deathAfter(call int64) int64 {
	for _, k := range h.kills {
		if k.end >= call {
			return k.end
		}
	}
	return math.MaxInt64
}

// explain shows the operations around the place where the longest order of a register's operations
// ends.
func explain(ops []porcupine.Operation, limit time.Duration) string {
	_, info := porcupine.CheckOperationsVerbose(model, ops, limit)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	longest := 0
	for _, p := range info.PartialLinearizations() {
		for _, order := range p {
			longest = max(longest, len(order))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d operations have an order; those around the end of it:\n", longest, len(ops))
	for i := max(0, longest-20); i < min(len(ops), longest+20); i++ {
		o := ops[i]
		fmt.Fprintf(&b, "  %12d to %12d  client %d: %s\n", o.Call, o.Return, o.ClientId, model.DescribeOperation(o.Input, o.Output))
	}
	return b.String()
}
