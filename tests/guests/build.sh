#!/bin/bash
# build.sh [--check]: builds the test guests into prebuilt/, or compares with what is there. Needs a Rust toolchain with
# wasm32-wasip1 and wasm32-wasip2 (rustup, or `. DIR/env` of samples/build/wasm-toolchain.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../samples/build/compare.sh"
for target in wasm32-wasip1 wasm32-wasip2; do
    if ! have_target $target; then
        echo "skipped: no std for $target (see samples/build/README.md)"
        # Comparing is for who can build; building without a toolchain is an error.
        [ "${1:-}" = --check ] && exit 0 || exit 1
    fi
done
guest() { # folder, target, built file, kept name
    (cd "$here/$1" && CARGO_TARGET_DIR="$work/target" RUSTFLAGS="$remap" cargo build -q --release --locked --target "$2")
    put "$work/target/$2/release/$3" "$here/prebuilt/$4" "$(wasm_toolchain)"
}
guest probe wasm32-wasip1 probe.wasm probe-p1.wasm
guest probe wasm32-wasip2 probe.wasm probe-p2.wasm
guest tcp wasm32-wasip2 tcp.wasm tcp.wasm
guest fetch wasm32-wasip2 fetch.wasm fetch.wasm
guest hello-p3 wasm32-wasip2 hello_p3.wasm hello-p3.wasm
finish "$here/prebuilt"
