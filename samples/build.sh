#!/bin/bash
# build.sh [--check] [NAME...]: builds the samples' programs: small ones into NAME/prebuilt/, which is checked in, the
# others into NAME/build/, which is not. --check builds them elsewhere and compares with what is checked in. One whose
# tools are not here is reported as skipped; README.md tells what each needs.
set -euo pipefail
samples=$(cd "$(dirname "$0")" && pwd)
mode=write
if [ "${1:-}" = --check ]; then mode=--check; shift; fi
[ $# -gt 0 ] || set -- rust-function python-function js-function go-batch c-batch tcp-server batch-job static-site caller

# One sample, in a shell of its own: compare.sh works on $here and ends the shell.
sample() (
    name=$1
    here=$samples/$name
    set -- "$mode"
    . "$samples/build/compare.sh"
    remap+=" --remap-path-prefix=$(dirname "$samples")/sdk=/sdk"
    out=$work
    [ "$mode" = --check ] || out=$here/build
    case $name in
        go-batch) go_program ;;
        c-batch) c_program ;;
        python-function) python_function ;;
        js-function) js_function ;;
        *) rust_program ;;
    esac
)
skipped() { echo "skipped: $name: $1"; }
# keep BUILT TOOLCHAIN: what is small is checked in.
keep() {
    mkdir -p "$here/prebuilt"
    put "$1" "$here/prebuilt/$name.wasm" "$2"
    finish "$here/prebuilt"
}
built() { echo "built: $name.wasm ($(stat -c %s "$out/$name.wasm") bytes)"; }

rust_program() {
    have_target wasm32-wasip2 || { skipped "no std for wasm32-wasip2 (see samples/build/README.md)"; return; }
    (cd "$here" && CARGO_TARGET_DIR="$work/target" RUSTFLAGS="$remap" cargo build -q --release --locked --target wasm32-wasip2)
    # A library's file has its crate's name.
    for file in "$name" "${name//-/_}"; do
        file=$work/target/wasm32-wasip2/release/$file.wasm
        if [ -f "$file" ]; then keep "$file" "$(wasm_toolchain)"; fi
    done
}
c_program() {
    local zig
    if command -v zig > /dev/null; then zig=(zig)
    elif python3 -m ziglang version > /dev/null 2>&1; then zig=(python3 -m ziglang)
    else skipped "no zig (pip install ziglang)"; return; fi
    "${zig[@]}" cc --target=wasm32-wasi -Os -s -Wall -Wextra -Werror -o "$work/$name.wasm" "$here"/src/*.c
    keep "$work/$name.wasm" "zig $("${zig[@]}" version)"
}
go_program() {
    command -v go > /dev/null || { skipped "no go (1.21 or newer)"; return; }
    mkdir -p "$out"
    (cd "$here" && GOOS=wasip1 GOARCH=wasm go build -trimpath -ldflags="-s -w" -o "$out/$name.wasm" ./src)
    built
}
python_function() {
    command -v componentize-py > /dev/null || { skipped "no componentize-py (pip install componentize-py==0.25.1)"; return; }
    mkdir -p "$out"
    (cd "$here" && componentize-py -q -d wit -w http componentize -p src app -o "$out/$name.wasm")
    built
}
js_function() {
    [ -e "$here/node_modules/@bytecodealliance/componentize-js" ] || { skipped "no \`npm install\` there"; return; }
    mkdir -p "$out"
    (cd "$here" && node build.mjs "$out/$name.wasm")
    built
}

for name; do
    [ -d "$samples/$name/src" ] || { echo "build.sh: there is no sample $name" >&2; exit 2; }
    sample "$name"
done
