//go:build linux

// Package uring is varve's door to io_uring.
package uring
