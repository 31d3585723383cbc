// Command varve serves block devices out of a content-addressed store. See package command.
package main

import (
	"context"
	"os"

	"varve/cmd/varve/internal/command"
)

func main() {
	os.Exit(command.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
