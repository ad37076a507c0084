//! How a guest ended, in the words of the contract: exit codes, traps with their backtrace, memory.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use catamaran_task::status::{Exit, ExitReason};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// 128 + SIGABRT, as of a program that aborted.
const TRAP_CODE: i32 = 134;
/// 128 + SIGKILL.
pub(crate) const KILLED_CODE: i32 = 137;

/// What became of growth that the memory limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// None was refused.
    Granted,
    /// Some was.
    Refused,
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An exit at the present time.
pub(crate) fn exit(code: i32, reason: ExitReason, message: Option<String>) -> Exit {
    Exit { code, at_ms: now_ms(), reason, message }
}

/// The end of a command: what `run` returned, `Err(())` as its own failure.
pub(crate) fn of_command(result: wasmtime::Result<Result<(), ()>>, growth: Growth) -> Exit {
    let error = match result {
        Ok(Ok(())) => return exit(0, ExitReason::Exited, None),
        Ok(Err(())) => return exit(1, ExitReason::Exited, None),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return exit(code & 0xff, ExitReason::Exited, None);
    }
    let text = describe(&error);
    match growth {
        Growth::Refused => {
            let message = format!("the memory limit refused growth, then: {text}");
            exit(KILLED_CODE, ExitReason::OomKilled, Some(message))
        }
        Growth::Granted => exit(TRAP_CODE, ExitReason::Trap, Some(text)),
    }
}

/// A trap in words, with the functions that led to it; any other error with its causes.
pub(crate) fn describe(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("wasm trap: {trap}"),
        None => {
            let causes: Vec<String> = error
                .chain()
                .map(ToString::to_string)
                .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
                .collect();
            causes.join(": ")
        }
    };
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return text };
    text.push_str("\nwasm backtrace:");
    for (depth, frame) in backtrace.frames().iter().enumerate() {
        let name = match frame.func_name() {
            Some(name) => name.to_owned(),
            None => format!("<function {}>", frame.func_index()),
        };
        let offset = frame.module_offset().unwrap_or(0);
        // Writing to a String does not fail.
        let _ = write!(text, "\n  {depth:2}: {offset:#8x} {}", demangled(&name));
    }
    text
}

/// Rust and C++ names as their authors wrote them.
fn demangled(name: &str) -> String {
    let plain = format!("{:#}", rustc_demangle::demangle(name));
    if plain.is_empty() { name.to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_ends() {
        let code = |result| of_command(result, Growth::Granted).code;
        assert_eq!(code(Ok(Ok(()))), 0);
        assert_eq!(code(Ok(Err(()))), 1);
        assert_eq!(code(Err(wasmtime::Error::from(I32Exit(7)))), 7);
        assert_eq!(code(Err(wasmtime::Error::from(I32Exit(0)))), 0);
        assert_eq!(code(Err(wasmtime::Error::from(I32Exit(-1)))), 255);
    }

    #[test]
    fn a_trap_after_refused_growth_is_lack_of_memory() {
        let trap = || Err(wasmtime::Error::from(Trap::UnreachableCodeReached));
        let exit = of_command(trap(), Growth::Granted);
        assert_eq!((exit.code, exit.reason), (134, ExitReason::Trap));
        assert!(exit.message.unwrap().contains("unreachable"));
        let exit = of_command(trap(), Growth::Refused);
        assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    }
}
