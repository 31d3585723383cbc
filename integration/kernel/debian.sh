# shellcheck shell=bash
# Sourced. Debian's packages of other suites than the machine's own, without touching the machine's
# apt configuration: a private apt state whose mirror is the one that the machine's apt uses.
#
#   VARVE_CACHE   where everything that is built or unpacked is kept, outside the checkout

VARVE_CACHE=${VARVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/varve}

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# install_packages PACKAGE... installs what is missing, from the machine's own suites.
install_packages() {
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	[ "$(id -u)" -eq 0 ] || die "not root: cannot install ${missing[*]}; run: apt-get install ${missing[*]}"
	echo "installing ${missing[*]}" >&2
	# Somebody else may be installing: wait for the lock.
	local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends)
	"${install[@]}" "${missing[@]}" >/dev/null 2>&1 ||
		{ apt-get -qq update >&2 && "${install[@]}" "${missing[@]}" >&2; } ||
		die "apt-get could not install ${missing[*]}"
}

# apt_private COMMAND... runs an apt command against trixie and trixie-backports.
apt_private() {
	local d=$VARVE_CACHE/apt cmd=$1
	shift
	"$cmd" -o Dir::Etc::sourcelist="$d/sources.list" -o Dir::Etc::sourceparts=- \
		-o Dir::State::lists="$d/lists" -o Dir::Cache="$d/cache" -o Acquire::Languages=none \
		-o APT::Sandbox::User=root "$@"
}

# apt_private_update makes the private state once a day.
apt_private_update() {
	local d=$VARVE_CACHE/apt site
	mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
	[ -n "$(find "$d/updated" -mtime -1 2>/dev/null)" ] && return 0
	site=$(apt-get indextargets --format '$(SITE) $(LABEL)' 'Created-By: Packages' | awk '$2 == "Debian" { print $1; exit }')
	[ -n "$site" ] || die "no Debian mirror in this machine's apt configuration: is this Debian, and did apt-get update run?"
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
		"$site" trixie "$site" trixie-backports >"$d/sources.list"
	apt_private apt-get -qq update >&2 || die "apt-get update for trixie failed"
	touch "$d/updated"
}

# unpack_debs DIR PACKAGE... unpacks packages of trixie below DIR, without installing them.
unpack_debs() {
	local dir=$1 tmp
	shift
	apt_private_update
	tmp=$(mktemp -d)
	(cd "$tmp" && apt_private apt-get -qq download "$@" >&2) || die "cannot download $*"
	mkdir -p "$dir"
	local deb
	for deb in "$tmp"/*.deb; do
		dpkg-deb -x "$deb" "$dir"
	done
	rm -rf "$tmp"
}
