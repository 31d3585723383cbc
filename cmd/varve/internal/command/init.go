package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) initCmd() *cobra.Command {
	chunk := size(16 << 10)
	var maxSize size
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create a store",
		Long: `init creates an empty store in the directory of --store, which must be empty or missing.

The chunk size is the unit of deduplication and cannot be changed later: smaller chunks find more duplicates, larger
chunks need less memory and fewer lookups. --max-size limits the store's size on disk; varve set changes it.`,
		Example: `  varve init
  varve init --max-size 200G
  varve init --store /srv/varve --chunk-size 64K`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch chunk {
			case 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10:
			default:
				return usagef("chunk size %s; use 4KiB, 8KiB, 16KiB, 32KiB or 64KiB", chunk.String())
			}
			limit := protocol.MaxSize{Bytes: int64(maxSize)}
			if err := limit.Check(); err != nil {
				return &usageError{err}
			}
			o := objstore.InitOptions{ChunkSize: int(chunk), MaxSize: limit.Bytes}
			if err := objstore.Init(a.store, o); err != nil {
				return doing("init "+a.store, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "store created in %s\n", a.store)
			return nil
		},
	}
	cmd.Flags().Var(&chunk, "chunk-size", "4KiB, 8KiB, 16KiB, 32KiB or 64KiB")
	cmd.Flags().Var(&maxSize, "max-size", "limit of the store's size on disk, like 200G (default the size of the file system)")
	return cmd
}
