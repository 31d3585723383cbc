//go:build race

package vfs

// The functions below touch bytes that the store may be changing through a mapping at the same
// moment. With a real file it is the kernel that reads them then, unseen by the race detector; here
// it must be told to look away, which it does not do inside copy and bytes.Equal.

//go:norace
func copyBytes(dst, src []byte) {
	for i := range min(len(dst), len(src)) {
		dst[i] = src[i]
	}
}

//go:norace
func clearBytes(b []byte) {
	for i := range b {
		b[i] = 0
	}
}

//go:norace
func equalBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
