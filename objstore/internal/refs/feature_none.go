//go:build nofeatures

package refs

// A program that is built with the tag nofeatures knows no feature, as an earlier version does.
// Tests upgrade from it and back to it.
func init() { clear(featureNames) }
