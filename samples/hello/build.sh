#!/bin/bash
# build.sh [--check]: builds both artifacts of the sample into prebuilt/; with --check compares them with what is there
# and changes nothing. The component needs a Rust toolchain with wasm32-wasip2 (`rustup target add wasm32-wasip2`, or
# `. DIR/env` of ../build/wasm-toolchain.sh); without one that half is reported as skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../build/compare.sh"
container() {
    (cd "$here" && env -u RUSTC -u LD_LIBRARY_PATH CARGO_TARGET_DIR="$work/target" RUSTFLAGS="-Ctarget-feature=+crt-static $remap" \
        cargo build -q --release --locked --bin hello-server --target x86_64-unknown-linux-gnu)
    put "$work/target/x86_64-unknown-linux-gnu/release/hello-server" "$here/prebuilt/hello-container" "$(native_toolchain)"
}
component() {
    (cd "$here" && CARGO_TARGET_DIR="$work/target" RUSTFLAGS="$remap" \
        cargo build -q --release --locked --lib --target wasm32-wasip2)
    put "$work/target/wasm32-wasip2/release/hello.wasm" "$here/prebuilt/hello.wasm" "$(wasm_toolchain)"
}
container
if have_target wasm32-wasip2; then component; else echo "skipped: no std for wasm32-wasip2 (see samples/build/README.md)"; fi
finish "$here/prebuilt"
