//! The container host as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    catamaran_shim_oci::main(std::env::args().skip(1))
}
