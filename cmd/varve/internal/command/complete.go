package command

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
)

// askDaemon asks a running daemon for completions. It does not open the store itself: pressing Tab
// must not lock it.
func (a *app) askDaemon(f func(context.Context, *client.Client) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := client.Dial(ctx, a.store)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer func() { _ = c.Close() }()
	return f(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeVolume(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.askDaemon(func(ctx context.Context, c *client.Client) []string {
		list, err := c.Volumes(ctx)
		if err != nil {
			return nil
		}
		names := make([]string, 0, len(list))
		for _, v := range list {
			names = append(names, v.Name)
		}
		return names
	})
}

func (a *app) completeSnapshot(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.askDaemon(func(ctx context.Context, c *client.Client) []string {
		list, err := c.Snapshots(ctx, "")
		if err != nil {
			return nil
		}
		names := make([]string, 0, len(list))
		for _, s := range list {
			names = append(names, s.Volume+"@"+s.Name)
		}
		return names
	})
}

// completeSnapshots is completeSnapshot for any number of arguments.
func (a *app) completeSnapshots(cmd *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
	return a.completeSnapshot(cmd, nil, part)
}

// completeVolumeOrSnapshot offers snapshots once the argument has an '@', and volumes before.
func (a *app) completeVolumeOrSnapshot(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(part, "@") {
		return a.completeSnapshot(cmd, args, part)
	}
	return a.completeVolume(cmd, args, part)
}

// completeImages is completeVolumeOrSnapshot for each of two arguments.
func (a *app) completeImages(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeVolumeOrSnapshot(cmd, nil, part)
}

func (a *app) completeSnapshotThenDir(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return completeDirs(cmd, args, part)
	}
	return a.completeSnapshot(cmd, args, part)
}

func (a *app) completeAttached(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.askDaemon(func(ctx context.Context, c *client.Client) []string {
		list, err := c.Attachments(ctx)
		if err != nil {
			return nil
		}
		names := make([]string, 0, 2*len(list))
		for _, at := range list {
			names = append(names, cmp.Or(at.Snapshot, at.Volume), at.Device)
		}
		return names
	})
}

// completeDirs leaves the completion of directories to the shell.
func completeDirs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
