package command

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
	"varve/objstore"
)

// jsonDoc is the page that says what --json writes.
const jsonDoc = "../../../../docs/json.md"

// jsonOf is what each command writes.
var jsonOf = map[string]any{
	"varve version":         versionReport{},
	"varve stat":            protocol.Stat{},
	"varve set":             protocol.Stat{},
	"varve volume create":   protocol.Volume{},
	"varve volume clone":    protocol.Volume{},
	"varve volume rollback": protocol.RolledBack{},
	"varve volume resize":   protocol.Resized{},
	"varve volume list":     []protocol.Volume{},
	"varve volume show":     protocol.Volume{},
	"varve volume set":      protocol.VolumeSet{},
	"varve volume rename":   protocol.Volume{},
	"varve snapshot rename": objstore.SnapshotInfo{},
	"varve volume repair":   objstore.Repair{},
	"varve snapshot create": objstore.SnapshotInfo{},
	"varve snapshot delete": objstore.Freed{},
	"varve volume delete":   objstore.Freed{},
	"varve snapshot list":   []objstore.SnapshotInfo{},
	"varve snapshot mount":  snapshotMount{},
	"varve snapshot prune":  protocol.Pruned{},
	"varve volume history":  []objstore.SnapshotInfo{},
	"varve snapshot diff":   objstore.DiffImages{},
	"varve attach":          protocol.Attached{},
	"varve detach":          protocol.Attachment{},
	"varve check":           &objstore.CheckReport{},
	"varve reindex":         protocol.Reindexed{},
	"varve gc":              protocol.Collected{},
	"varve stop":            protocol.Stopped{},
	"varve upgrade":         protocol.Upgraded{},
	"varve features":        featureReport{},
	"varve ublk features":   featureReport{},
	"varve ublk list":       []ublkDevice{},
	"varve ublk add":        ublkDevice{},
	"varve ublk recover":    ublkDevice{},
}

// jsonNames are the sections of the page, and what each is in the program.
var jsonNames = map[string]reflect.Type{
	"Version": reflect.TypeFor[versionReport](), "Stat": reflect.TypeFor[protocol.Stat](), "Daemon": reflect.TypeFor[protocol.Ping](),
	"OpenFiles": reflect.TypeFor[protocol.OpenFiles](), "Share": reflect.TypeFor[objstore.Share](),
	"Uses": reflect.TypeFor[objstore.Uses](), "Freed": reflect.TypeFor[objstore.Freed](),
	"Mount": reflect.TypeFor[protocol.Mount](), "Swap": reflect.TypeFor[protocol.Swap](), "VolumeInfo": reflect.TypeFor[objstore.VolumeInfo](),
	"Volume": reflect.TypeFor[protocol.Volume](), "RolledBack": reflect.TypeFor[protocol.RolledBack](), "Resized": reflect.TypeFor[protocol.Resized](), "VolumeSet": reflect.TypeFor[protocol.VolumeSet](), "Snapshot": reflect.TypeFor[objstore.SnapshotInfo](),
	"Attachment": reflect.TypeFor[protocol.Attachment](), "Attached": reflect.TypeFor[protocol.Attached](),
	"SnapshotMount": reflect.TypeFor[snapshotMount](), "Repair": reflect.TypeFor[objstore.Repair](),
	"Range": reflect.TypeFor[objstore.Range](), "Check": reflect.TypeFor[objstore.CheckReport](),
	"Damage": reflect.TypeFor[objstore.Damage](), "Affected": reflect.TypeFor[objstore.Affected](),
	"Reindex": reflect.TypeFor[objstore.ReindexInfo](), "Reindexed": reflect.TypeFor[protocol.Reindexed](),
	"Collected": reflect.TypeFor[protocol.Collected](), "Collection": reflect.TypeFor[objstore.CollectReport](),
	"Collecting": reflect.TypeFor[objstore.CollectInfo](),
	"Scrub":      reflect.TypeFor[objstore.ScrubInfo](), "Resumed": reflect.TypeFor[objstore.Resumed](),
	"Pruned": reflect.TypeFor[protocol.Pruned](), "Policy": reflect.TypeFor[objstore.Retention](),
	"DiffImages": reflect.TypeFor[objstore.DiffImages](), "DiffImage": reflect.TypeFor[objstore.DiffImage](),
	"Change": reflect.TypeFor[objstore.Change](), "DiffTotal": reflect.TypeFor[objstore.DiffTotal](),
	"Stopped": reflect.TypeFor[protocol.Stopped](), "Upgraded": reflect.TypeFor[protocol.Upgraded](),
	"Process": reflect.TypeFor[protocol.Process](), "UpgradedDevice": reflect.TypeFor[protocol.UpgradedDevice](),
	"Pauses": reflect.TypeFor[protocol.Pauses](), "Features": reflect.TypeFor[featureReport](),
	"Identified": reflect.TypeFor[protocol.Identified](), "Feature": reflect.TypeFor[blockdev.Feature](), "KnownBug": reflect.TypeFor[blockdev.KnownBug](), "UblkDevice": reflect.TypeFor[ublkDevice](),
	"UblkTarget": reflect.TypeFor[targets.Record](),
	"UblkLeg":    reflect.TypeFor[protocol.Leg](), "ServedTarget": reflect.TypeFor[protocol.ServedTarget](),
	"Target": reflect.TypeFor[protocol.Target](), "UpgradedTarget": reflect.TypeFor[protocol.UpgradedTarget](),
}

// jsonField is a field as it is written.
type jsonField struct {
	name     string
	optional bool
	typ      reflect.Type
}

// element is what a list or a pointer is of.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// fieldsOf are the fields of an object: its own, and of embedded ones those that it does not have
// itself.
func fieldsOf(t reflect.Type) []jsonField {
	var own, inherited []jsonField
	for f := range t.Fields() {
		if f.Anonymous {
			inherited = append(inherited, fieldsOf(f.Type)...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if t == reflect.TypeFor[protocol.Attachment]() && (name == "mark" || name == "volume_id") {
			continue // between daemons alone: Attachment.Shown takes it out
		}
		if name == "-" {
			continue // not written
		}
		own = append(own, jsonField{name, strings.Contains(options, "omit"), f.Type})
	}
	for _, f := range inherited {
		if !slices.ContainsFunc(own, func(o jsonField) bool { return o.name == f.name }) {
			own = append(own, f)
		}
	}
	return own
}

// docFields reads the table of a section: names, and whether each is marked as optional.
func docFields(page, name string) map[string]bool {
	_, section, _ := strings.Cut(page, "\n## "+name+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	fields := map[string]bool{}
	for line := range strings.Lines(section) {
		cells := strings.SplitN(line, "|", 4)
		if len(cells) < 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(cells[1], -1) {
			fields[m[1]] = strings.Contains(cells[2], "*optional*")
		}
	}
	if _, rest, ok := strings.Cut(section, "The fields of ["); ok {
		of, _, _ := strings.Cut(rest, "]")
		for f, optional := range docFields(page, of) {
			fields[f] = optional
		}
	}
	return fields
}

func sectionOf(t reflect.Type) string {
	for name, typ := range jsonNames {
		if typ == element(t) {
			return name
		}
	}
	return ""
}

// The page names every field of everything that --json writes, and no other.
func TestJSONIsDocumented(t *testing.T) {
	b, err := os.ReadFile(jsonDoc)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for name, typ := range jsonNames {
		said := docFields(page, name)
		for _, f := range fieldsOf(typ) {
			optional, ok := said[f.name]
			if !ok || optional != f.optional {
				t.Errorf("%s: field %q: documented %v, marked as optional %v; want %v", name, f.name, ok, optional, f.optional)
			}
			delete(said, f.name)
			e := element(f.typ)
			if e.Kind() == reflect.Uint64 {
				t.Errorf("%s: field %q has 64 bits: write it as text", name, f.name)
			}
			if e.Kind() == reflect.Struct && e != reflect.TypeFor[time.Time]() {
				if of := sectionOf(e); of == "" || !strings.Contains(page, "["+of+"](#"+strings.ToLower(of)+")") {
					t.Errorf("%s: field %q is a %v, which has no section", name, f.name, e)
				}
			}
		}
		for f := range said {
			t.Errorf("%s: field %q is documented, and not written", name, f)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(page, -1) {
		if jsonNames[m[1]] == nil {
			t.Errorf("section %q is of nothing", m[1])
		}
	}
}

// Every command with --json is in the page's table, with what it writes.
func TestJSONCommands(t *testing.T) {
	b, err := os.ReadFile(jsonDoc)
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(b), "\n## ")
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Flags().Lookup("json") == nil {
			return
		}
		v, ok := jsonOf[c.CommandPath()]
		if !ok {
			t.Errorf("%s writes JSON, and the test does not know of what kind", c.CommandPath())
			return
		}
		want := fmt.Sprintf("[%s](#", sectionOf(reflect.TypeOf(v)))
		if reflect.TypeOf(v).Kind() == reflect.Slice {
			want = "a list of " + want
		}
		for line := range strings.Lines(table) {
			cells := strings.Split(line, "|")
			if len(cells) > 3 && strings.Contains(cells[1], "`"+c.CommandPath()+"`") && strings.HasPrefix(strings.TrimSpace(cells[2]), want) {
				return
			}
		}
		t.Errorf("%s: the table does not say that it writes %s", c.CommandPath(), want)
	}
	walk(New())
}

// What commands write without a daemon is of the kinds that are documented.
func TestJSONIsOfItsKind(t *testing.T) {
	store := t.TempDir() + "/store"
	for _, args := range [][]string{{"init"}, {"volume", "create", "old", "--size", "1M"}} {
		if code, _, errs := varve(t, store, args...); code != exitOK {
			t.Fatal(errs)
		}
	}
	for _, args := range [][]string{
		{"version"},
		{"volume", "create", "a", "--size", "1M"},
		{"volume", "list"},
		{"volume", "show", "a"},
		{"volume", "set", "a", "--verify"},
		{"snapshot", "create", "a@s", "--wait"},
		{"snapshot", "list"},
		{"snapshot", "diff", "a@s"},
		{"volume", "set", "a", "--keep-last", "3", "--snapshot-every", "15m"},
		{"volume", "history", "a"},
		{"snapshot", "prune"},
		{"snapshot", "prune", "--dry-run"},
		{"volume", "clone", "a@s", "b"},
		{"volume", "rename", "b", "c"},
		{"snapshot", "rename", "a@s", "t"},
		{"snapshot", "rename", "a@t", "s"},
		{"volume", "rollback", "a@s"},
		{"volume", "resize", "a", "2G"},
		{"stat"},
		{"set", "--max-size", "1G"},
		{"check"},
		{"reindex"},
		{"gc"},
		{"gc", "--dry-run"},
		{"set", "--gc-rate", "100M"},
		{"check", "--percent", "10", "--rate", "1G"},
		{"set", "--scrub-every", "30d", "--scrub-rate", "100M"},
		{"features"},
	} {
		code, out, errs := varve(t, store, append(args, "--json")...)
		if code != exitOK && args[0] != "features" {
			t.Errorf("%v: %s", args, errs)
			continue
		}
		name := "varve " + args[0]
		if jsonOf[name] == nil {
			name += " " + args[1]
		}
		d := json.NewDecoder(strings.NewReader(out))
		d.DisallowUnknownFields()
		if err := d.Decode(reflect.New(reflect.TypeOf(jsonOf[name])).Interface()); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
