package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

// writeJSON writes output for programs: sizes in bytes, times in UTC.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// answer ends a command that has nothing to say but an error, or with --json what it was answered.
func (a *app) answer(w io.Writer, what string, v any, err error) error {
	if err != nil {
		return doing(what, err)
	}
	if a.json {
		return writeJSON(w, v)
	}
	return nil
}

// column of a table.
type column struct {
	name  string
	right bool // numbers
}

// writeTable writes the columns' names, and the rows below them.
func writeTable(w io.Writer, columns []column, rows [][]string) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	header := make(table.Row, len(columns))
	configs := make([]table.ColumnConfig, len(columns))
	for i, c := range columns {
		header[i] = c.name
		align := text.AlignLeft
		if c.right {
			align = text.AlignRight
		}
		configs[i] = table.ColumnConfig{Number: i + 1, Align: align, AlignHeader: align}
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	for _, r := range rows {
		row := make(table.Row, len(r))
		for i, c := range r {
			row[i] = c
		}
		t.AppendRow(row)
	}
	for line := range strings.SplitSeq(t.Render(), "\n") {
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

// writeFields writes one name and value per line.
func writeFields(w io.Writer, fields [][2]string) {
	width := 0
	for _, f := range fields {
		width = max(width, len(f[0]))
	}
	for _, f := range fields {
		fmt.Fprintf(w, "%-*s  %s\n", width, f[0], f[1])
	}
}

// writeNotes writes notes for the user on standard error.
func writeNotes(cmd *cobra.Command, notes []string) {
	for _, n := range notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "varve: note: %s\n", n)
	}
}

func formatTime(t time.Time) string { return t.Local().Format(time.DateTime) }

// shortRoot returns enough of a root to tell roots apart by eye.
func shortRoot(root string) string {
	const enough = 8
	if len(root) > enough {
		return root[:enough]
	}
	return root
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
