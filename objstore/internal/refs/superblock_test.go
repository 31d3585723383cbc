package refs

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/vfs"
)

// unknown are features that no varve has so far.
const (
	unknownIncompatible Feature = 63
	unknownCompatible   Feature = 127
)

// withNames returns a superblock with features, as a varve writes it that knows them by these
// names.
func withNames(t *testing.T, features Features, names map[Feature]string) []byte {
	t.Helper()
	for f, name := range names {
		featureNames[f] = name
		defer delete(featureNames, f)
	}
	sb := goldenSuperblock()
	sb.Features = features
	return sb.Encode()
}

// superblocks returns a file system with both copies.
func superblocks(t *testing.T, first, second []byte) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem(0)
	for name, b := range map[string][]byte{SuperblockFile: first, SuperblockCopy: second} {
		if b != nil {
			must(t, disk.ReplaceFile(fs, name, b))
		}
	}
	return fs
}

func TestGoldenFeatures(t *testing.T) {
	golden.Check(t, "superblock-features", withNames(t, NewFeatures(RetiredSegments, Resize, unknownCompatible),
		map[Feature]string{unknownCompatible: "hints"}))
}

// Features are numbered once and for all.
func TestFeatureNumbers(t *testing.T) {
	for want, f := range []Feature{RetiredSegments, Rename, Resize, Quota, Policy, Collected} {
		if int(f) != want {
			t.Errorf("%v has number %d, want %d", f, f, want)
		}
	}
	all := knownFeatures()
	sb := goldenSuperblock()
	sb.Features = all
	if n := len(sb.encodeNames()); n > offChecksum-offNames {
		t.Errorf("the names of all features take %d bytes", n)
	}
	names := map[string]bool{}
	for _, name := range all.Names() {
		if names[name] || name == "" || strings.ContainsAny(name, "\x00 ") {
			t.Errorf("feature name %q", name)
		}
		names[name] = true
	}
}

// A store with an unknown feature is refused with its number and name, and so is one of a version
// to come; a feature that is compatible with reading forbids writing alone. What this varve says is
// also what a later one will: the bytes have the name.
func TestUnknownFeatures(t *testing.T) {
	both := NewFeatures(Rename, unknownIncompatible, unknownCompatible)
	names := map[Feature]string{unknownIncompatible: "packed-chunks", unknownCompatible: "hints"}
	next := goldenSuperblock()
	later := next.Encode()
	le.PutUint32(later[offVersion:], versionFeatures+1)
	for what, c := range map[string]struct {
		bytes []byte
		read  []string // what the refusal says of reading; nil: it can be read
		write []string
	}{
		"incompatible": {
			withNames(t, both, names),
			[]string{"feature 63 (packed-chunks)", "newer varve"},
			[]string{"feature 63 (packed-chunks)"},
		},
		"without names": {withNames(t, both, nil), []string{"feature 63,"}, []string{"feature 63,"}},
		"compatible": {
			withNames(t, NewFeatures(Rename, unknownCompatible), names),
			nil,
			[]string{"feature 127 (hints)", "can read the store", "newer varve"},
		},
		"later version": {disktest.Seal(later, offChecksum), []string{"version 3", "versions 1 and 2"}, []string{"version 3"}},
	} {
		for _, second := range [][]byte{c.bytes, withNames(t, Features{}, nil), nil} {
			for _, readOnly := range []bool{true, false} {
				want := c.read
				if !readOnly {
					want = c.write
				}
				fs := superblocks(t, c.bytes, second)
				ops := fs.Ops()
				_, _, err := ReadSuperblock(fs, readOnly)
				if want == nil {
					must(t, err)
					continue
				}
				if !errors.Is(err, disk.ErrVersion) || errors.Is(err, disk.ErrCorrupt) {
					t.Errorf("%s, read only %v: %v", what, readOnly, err)
					continue
				}
				for _, word := range want {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s, read only %v: %q lacks %q", what, readOnly, err, word)
					}
				}
				if strings.Contains(err.Error(), "rename") {
					t.Errorf("%s: %q names a feature that is known", what, err)
				}
				if fs.Ops() != ops {
					t.Errorf("%s, read only %v: a store that is refused was written to", what, readOnly)
				}
			}
		}
	}
}

// A superblock of version 1 has no features: bytes that say otherwise are damage, and no varve
// guesses at them.
func TestFeaturesInVersionOne(t *testing.T) {
	b := withNames(t, NewFeatures(Rename), nil)
	le.PutUint32(b[offVersion:], versionPlain)
	if _, err := decodeSuperblock(disktest.Seal(b, offChecksum)); err == nil || errors.Is(err, disk.ErrVersion) {
		t.Errorf("%v", err)
	}
}

// A feature that has reached one copy only counts, whichever that is, and reaches the other one: a
// crash between the two never takes back what the caller was told.
func TestFeaturesOfEitherCopy(t *testing.T) {
	plain, resized := withNames(t, Features{}, nil), withNames(t, NewFeatures(Resize), nil)
	for _, c := range [][2][]byte{{plain, resized}, {resized, plain}, {resized, nil}, {nil, resized}, {resized, resized[:300]}} {
		fs := superblocks(t, c[0], c[1])
		sb, _, err := ReadSuperblock(fs, false)
		must(t, err)
		if sb.Features != NewFeatures(Resize) {
			t.Errorf("features %v", sb.Features.Names())
		}
		for _, name := range []string{SuperblockFile, SuperblockCopy} {
			if !bytes.Equal(disktest.ReadFile(t, fs, name), resized) {
				t.Errorf("%s is not repaired", name)
			}
		}
	}
}
