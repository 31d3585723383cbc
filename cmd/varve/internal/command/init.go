package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/objstore"
)

func (a *app) initCmd() *cobra.Command {
	chunk := size(16 << 10)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a store",
		Long: `init makes an empty store in the directory of --store, which must be empty or missing.

The chunk size is what duplicates are found by, and fixed for the store: small chunks find more duplicates, large
ones need less memory and fewer lookups.`,
		Example: `  varve init
  varve init --store /srv/varve --chunk-size 64K`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch chunk {
			case 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10:
			default:
				return usagef("chunk size %s; use 4K, 8K, 16K, 32K or 64K", chunk.String())
			}
			if err := objstore.Init(a.store, objstore.InitOptions{ChunkSize: int(chunk)}); err != nil {
				return doing("init "+a.store, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "store made in %s\n", a.store)
			return nil
		},
	}
	cmd.Flags().Var(&chunk, "chunk-size", "4K, 8K, 16K, 32K or 64K")
	return cmd
}
