//go:build !race

package vfs

import "bytes"

func copyBytes(dst, src []byte)   { copy(dst, src) }
func clearBytes(b []byte)         { clear(b) }
func equalBytes(a, b []byte) bool { return bytes.Equal(a, b) }
