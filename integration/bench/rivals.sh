# shellcheck shell=bash
# Sourced after integration/kernel/debian.sh. What the benchmark measures varve against, all outside the checkout.

# prepare_rivals KERNEL sets kublk and vdoformat to programs that run on this machine and in the test kernel.
#
# fio, dmsetup, thin-provisioning-tools and qemu-utils are the machine's own packages. kublk, the ublk server of the kernel's
# selftests, is built from the source that KERNEL was built from. vdoformat is trixie's and runs on trixie's libc.
prepare_rivals() {
	local kernel=$1
	install_packages build-essential fio dmsetup thin-provisioning-tools qemu-utils util-linux
	build_kublk "$(dirname "$kernel")"
	unpack_vdoformat
}

# build_kublk DIR builds DIR/selftests/ublk against the uapi headers of the same kernel and trixie's liburing: the
# machine's own headers and liburing may be years older. liburing is linked statically, so that kublk needs nothing.
build_kublk() {
	local dir=$1 out version
	out=$VARVE_CACHE/bench/kublk-$(basename "$dir")
	kublk=$out/kublk
	[ ! -x "$kublk" ] || return 0
	version=$(basename "$dir" | sed -E 's/^[^_]*_(.*)-[0-9a-f]{12}$/\1/')
	echo "building kublk of Linux $version" >&2
	rm -rf "$out"
	mkdir -p "$out"
	(unpack_debs "$out/deb" liburing-dev "linux-libc-dev=$version") 2>/dev/null ||
		unpack_debs "$out/deb" liburing-dev linux-libc-dev/trixie-backports
	local sources=() f
	for f in "$dir"/selftests/ublk/*.c; do
		[ "${f##*/}" = metadata_size.c ] || sources+=("$f")
	done
	gcc -O3 -D_GNU_SOURCE -pthread -isystem "$out/deb/usr/include" -isystem "$out/deb/usr/include/x86_64-linux-gnu" \
		-o "$kublk.new" "${sources[@]}" "$out/deb/usr/lib/x86_64-linux-gnu/liburing.a" -lm \
		>"$out/build.log" 2>&1 || { tail -n 20 "$out/build.log" >&2; die "kublk did not build; whole log: $out/build.log"; }
	mv "$kublk.new" "$kublk"
	rm -rf "$out/deb"
}

# unpack_vdoformat makes a wrapper that starts vdoformat by its own dynamic linker.
unpack_vdoformat() {
	local out=$VARVE_CACHE/bench/vdo
	vdoformat=$out/vdoformat
	[ ! -x "$vdoformat" ] || return 0
	rm -rf "$out"
	unpack_debs "$out" vdo libc6 libblkid1 libuuid1 zlib1g
	local lib=$out/usr/lib/x86_64-linux-gnu
	printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' \
		"$lib/ld-linux-x86-64.so.2" "$lib" "$out/usr/bin/vdoformat" >"$vdoformat.new"
	chmod +x "$vdoformat.new"
	"$vdoformat.new" --version >/dev/null || die "vdoformat does not run"
	mv "$vdoformat.new" "$vdoformat"
}
