# shellcheck shell=bash
# Sourced. A test kernel that is to be measured in.

# measured DIR OPTIONS... -- CMD runs integration/vm/run with a larger share of its processor than what else runs
# here, and notes in DIR/watch.log, by DIR/bench, how much processor time it got.
measured() {
	local dir=$1 vm watch status=0 vmrun
	vmrun=$(dirname "${BASH_SOURCE[0]}")/../vm/run
	shift
	"$vmrun" "$@" &
	vm=$!
	# shellcheck disable=SC2064 # this vm, now
	trap "kill $vm 2>/dev/null; wait $vm" EXIT
	prefer_machine "$vm"
	"$dir/bench" watch -parent "$vm" -out "$dir/watch.log" &
	watch=$!
	wait "$vm" || status=$?
	wait "$watch"
	trap - EXIT
	return "$status"
}

# prefer_machine PID gives the machine below vm/run a larger share of its processor than what else runs here: with
# autogroups a session is weighed as a whole, without them each process.
prefer_machine() {
	local p
	for _ in $(seq 100); do
		sleep 0.1
		for p in $(ps -o pid= --ppid "$1" 2>/dev/null); do
			[ "$(cat "/proc/$p/comm" 2>/dev/null)" = linux.uml ] || continue
			echo -15 >"/proc/$p/autogroup" 2>/dev/null || true
			renice -n -15 -p "$p" >/dev/null 2>&1 || true
			return 0
		done
	done
}
