# Shared by the build scripts of samples and test guests; sourced, not run. Uses $here, sets $work and $remap.
mode=${1:-write}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# No path of the machine that builds ends up in an artifact.
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/crates --remap-path-prefix=$here=/source"
differs=0
# have_target TRIPLE: whether the toolchain at hand has std for it.
have_target() {
    local root; root=$("${RUSTC:-rustc}" --print sysroot 2>/dev/null) && compgen -G "$root/lib/rustlib/$1/lib/libstd-*.rlib" > /dev/null
}
# wasm_toolchain, native_toolchain: what the bytes of an artifact depend on beside its source.
wasm_toolchain() { "${RUSTC:-rustc}" -V; }
native_toolchain() { echo "$(env -u RUSTC -u LD_LIBRARY_PATH rustc -V), libc $(getconf GNU_LIBC_VERSION)"; }
# put BUILT KEPT TOOLCHAIN: keeps what was built, or compares it with what is kept. Another toolchain makes other bytes:
# then it is enough that the source can be built and that what is kept was not changed since.
put() {
    local name=${2##*/}
    if [ "$mode" = --check ]; then
        local noted; noted=$(sed -n "s/^$name: //p" "${2%/*}/TOOLCHAIN")
        if [ "$noted" != "$3" ]; then echo "builds, not compared: $name (kept: $noted; here: $3)"
        elif cmp -s "$1" "$2"; then echo "same: ${2##*/}"; else echo "differs: ${2##*/} ($(stat -c %s "$1") bytes built, $(stat -c %s "$2") kept)"; differs=1; fi
    else
        cp "$1" "$2"; chmod 644 "$2"; echo "$name: $3" >> "$work/toolchain"; echo "built: ${2##*/} ($(stat -c %s "$2") bytes)"
    fi
}
# finish DIR: writes or checks DIR/SHA256SUMS.
finish() {
    if [ "$mode" = --check ]; then (cd "$1" && sha256sum --quiet -c SHA256SUMS) || differs=1
    else
        (cd "$1" && rm -f SHA256SUMS TOOLCHAIN && sha256sum -- * > "$work/sums" && mv "$work/sums" SHA256SUMS && chmod 644 SHA256SUMS)
        sort "$work/toolchain" > "$1/TOOLCHAIN"
    fi
    exit $differs
}
