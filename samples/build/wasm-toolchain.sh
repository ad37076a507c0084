#!/bin/bash
# wasm-toolchain.sh DIR: makes, below DIR, a Rust compiler whose std covers wasm32-wasip1 and wasm32-wasip2, from Debian's
# packages of the compiler and its sources. Nothing is installed on the machine. See README.md for what it needs.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$(mkdir -p "$1" && cd "$1" && pwd)
host=$(uname -m)-unknown-linux-gnu
sysroot=$(env -u RUSTC -u LD_LIBRARY_PATH rustc --print sysroot)
linkers=$sysroot/lib/rustlib/$host/bin
for tool in rust-lld wasm-component-ld; do
    [ -x "$linkers/$tool" ] || { echo "$linkers/$tool is missing: this needs a rustup toolchain" >&2; exit 1; }
done
scratch=$dir/scratch
rm -rf "$scratch"; mkdir -p "$scratch"

unpack_packages() {
    # Versioned package names come from the dependencies, so that a newer security update works too.
    local std llvm package
    std=$(apt-cache depends libstd-rust-web-dev | grep -o 'libstd-rust-web-[0-9][^ ]*' | head -1)
    llvm=$(apt-cache depends "$std" | grep -o 'libllvm[^ ]*' | head -1)
    cd "$scratch"
    apt-get -q download rustc-web "$std" libstd-rust-web-dev "$llvm" rust-web-src
    for package in rustc-web_*.deb "$std"_*.deb libstd-rust-web-dev_*.deb "$llvm"_*.deb; do dpkg -x "$package" "$dir"; done
    dpkg --fsys-tarfile rust-web-src_*.deb |
        tar -x -C "$dir" --wildcards './usr/src/rustc-*/library' './usr/lib/rustlib'
}

write_environment() {
    local library=$dir/usr/lib/$(uname -m)-linux-gnu
    printf 'export RUSTC=%q\nexport LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nexport PATH=%q:%q:$PATH\n' \
        "$dir/usr/bin/rustc" "$library" "$sysroot/bin" "$linkers" > "$dir/env"
    . "$dir/env"
    "$RUSTC" --version
}

# The C library for wasm32-wasi, out of the zig wheel: compiling an empty program leaves its parts in zig's cache.
# All three parts are needed (strlen and memcmp are not in zig's libc.a).
make_c_library() {
    cd "$scratch"
    python3 -m venv venv
    venv/bin/pip -q install ziglang==0.17.0
    export ZIG_GLOBAL_CACHE_DIR=$scratch/zig
    echo 'int main(void) { return 0; }' > empty.c
    venv/bin/python -m ziglang cc --target=wasm32-wasi -O2 -s empty.c -o empty.wasm
    local part script='create libc.a\n'
    for part in libc libzigc libcompiler_rt; do
        cp "$(find zig -name "$part.a" | head -1)" "part-$part.a"
        script+="addlib part-$part.a\n"
    done
    printf "${script}save\nend\n" | venv/bin/python -m ziglang ar -M
}

# The start file. It runs constructors itself: otherwise wasm-ld wraps every export so that it runs them, cabi_realloc too,
# and a component traps with "cannot leave component instance".
write_start_file() {
    cat > "$scratch/start.rs" <<'RUST'
#![no_std]
unsafe extern "C" {
    fn __wasm_call_ctors();
    fn __wasm_call_dtors();
    fn __main_void() -> i32;
    fn __wasi_proc_exit(code: i32) -> !;
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start() {
    unsafe {
        __wasm_call_ctors();
        let code = __main_void();
        __wasm_call_dtors();
        if code != 0 {
            __wasi_proc_exit(code)
        }
    }
}
RUST
}

# std for one target: built from source beside an empty crate, then laid into the sysroot.
build_std() {
    local target=$1 lib=$dir/usr/lib/rustlib/$1/lib
    mkdir -p "$scratch/seed/src"
    : > "$scratch/seed/src/lib.rs"
    printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2024"\n[profile.release]\npanic = "abort"\n[workspace]\n' \
        > "$scratch/seed/Cargo.toml"
    local remap="--remap-path-prefix=$dir/usr/lib/rustlib/src/rust=/rust --remap-path-prefix=$dir/usr/src=/rust/src"
    remap+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/crates"
    (cd "$scratch/seed" && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$scratch/target" RUSTFLAGS="-Cembed-bitcode=yes $remap" \
        cargo build -q --release -Zbuild-std=std,panic_abort --target "$target")
    rm -rf "$lib"; mkdir -p "$lib/self-contained"
    cp "$scratch/target/$target/release/deps"/lib*.rlib "$lib/"
    rm -f "$lib"/libseed-*
    cp "$scratch/libc.a" "$lib/self-contained/"
    "$RUSTC" --edition 2024 --crate-type lib --emit obj -Copt-level=s -Cpanic=abort --target "$target" \
        "$scratch/start.rs" -o "$lib/self-contained/crt1-command.o"
}

unpack_packages
write_environment
make_c_library
write_start_file
for target in wasm32-wasip1 wasm32-wasip2; do build_std "$target"; done
rm -rf "$scratch" "$dir/usr/src" "$dir/usr/share"
echo "done: . $dir/env"
