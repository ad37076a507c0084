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
# put BUILT KEPT: keeps what was built, or compares it with what is kept.
put() {
    if [ "$mode" = --check ]; then
        if cmp -s "$1" "$2"; then echo "same: ${2##*/}"; else echo "differs: ${2##*/} ($(stat -c %s "$1") bytes built, $(stat -c %s "$2") kept)"; differs=1; fi
    else
        cp "$1" "$2"; chmod 644 "$2"; echo "built: ${2##*/} ($(stat -c %s "$2") bytes)"
    fi
}
# finish DIR: writes or checks DIR/SHA256SUMS.
finish() {
    if [ "$mode" = --check ]; then (cd "$1" && sha256sum --quiet -c SHA256SUMS) || differs=1
    else (cd "$1" && rm -f SHA256SUMS && sha256sum -- * > "$work/sums" && mv "$work/sums" SHA256SUMS && chmod 644 SHA256SUMS); fi
    exit $differs
}
