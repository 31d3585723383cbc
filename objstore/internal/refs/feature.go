package refs

import (
	"fmt"
	"math/bits"
	"strings"
)

// Feature is something on disk that the first version of the format lacks. Its number is its bit in
// the feature masks of the superblock, and never changes.
//
// Features below [firstCompatible] are incompatible: a varve that does not know one cannot tell
// what the store holds, and refuses to open it. The others are read-only compatible: a varve that
// does not know one can read the store, and must not write to it.
type Feature uint8

// The incompatible features.
const (
	RetiredSegments Feature = 0 // segments that were unlinked although refs or journals named them
	Rename          Feature = 1 // volumes and snapshots change their names
	Resize          Feature = 2 // volumes change their size, and snapshots have a size of their own
	Quota           Feature = 3 // volumes have a quota and a reservation
	Policy          Feature = 4 // volumes have settings for automatic snapshots and their retention
	Collected       Feature = 5 // object lists of sealed segments shrink
)

// firstCompatible is the first of the read-only compatible features. There is none so far.
const firstCompatible Feature = 64

// featureNames are for people. They are kept in the superblock too, so that a varve which does not
// know a feature can say its name.
var featureNames = map[Feature]string{
	RetiredSegments: "retired-segments",
	Rename:          "rename",
	Resize:          "resize",
	Quota:           "quota",
	Policy:          "policy",
	Collected:       "collected",
}

func (f Feature) String() string {
	if name := featureNames[f]; name != "" {
		return name
	}
	return fmt.Sprintf("feature %d", uint8(f))
}

// incompatible reports whether a varve that does not know the feature must not open the store.
func (f Feature) incompatible() bool { return f < firstCompatible }

// Features is a set of features: the two masks of a superblock.
type Features struct {
	incompatible, compatible uint64
}

// NewFeatures returns the set of the features.
func NewFeatures(list ...Feature) Features {
	var s Features
	for _, f := range list {
		if f.incompatible() {
			s.incompatible |= 1 << f
		} else {
			s.compatible |= 1 << (f - firstCompatible)
		}
	}
	return s
}

// knownFeatures are those that this varve reads and writes.
func knownFeatures() Features {
	var s Features
	for f := range featureNames {
		s = s.Union(NewFeatures(f))
	}
	return s
}

// Union returns the features that are in either set.
func (s Features) Union(o Features) Features {
	return Features{s.incompatible | o.incompatible, s.compatible | o.compatible}
}

// Has reports whether all features of o are in s.
func (s Features) Has(o Features) bool { return s.Union(o) == s }

// without returns the features of s that are not in o.
func (s Features) without(o Features) Features {
	return Features{s.incompatible &^ o.incompatible, s.compatible &^ o.compatible}
}

func (s Features) empty() bool { return s == Features{} }

// list returns the features in order of their numbers.
func (s Features) list() []Feature {
	var out []Feature
	for m := s.incompatible; m != 0; m &= m - 1 {
		out = append(out, Feature(bits.TrailingZeros64(m)))
	}
	for m := s.compatible; m != 0; m &= m - 1 {
		out = append(out, firstCompatible+Feature(bits.TrailingZeros64(m)))
	}
	return out
}

// Names returns the names of the features, in order of their numbers.
func (s Features) Names() []string {
	names := []string{}
	for _, f := range s.list() {
		names = append(names, f.String())
	}
	return names
}

// describe is for messages: the features of s with their numbers, and with the names that the
// superblock has for them.
func (s Features) describe(sb *Superblock) string {
	var words []string
	names := sb.names()
	for i, f := range sb.Features.list() {
		if !s.Has(NewFeatures(f)) {
			continue
		}
		word := fmt.Sprintf("feature %d", uint8(f))
		if names[i] != "" {
			word += fmt.Sprintf(" (%s)", names[i])
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}
