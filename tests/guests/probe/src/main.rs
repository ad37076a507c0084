//! A command whose first argument says what to do, for tests of exit codes, output, limits and mounts.

use std::io::{Read, Write};
use std::process::exit;
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |i: usize| args.get(i).map_or("", String::as_str);
    let number = |i: usize| word(i).parse::<u64>().unwrap_or(0);
    match word(0) {
        "exit" => exit_with(number(1) as u8),
        "args" => println!("{}", args[1..].join("|")),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "both" => {
            println!("{}", word(1));
            eprintln!("{}", word(2));
        }
        "say" => {
            print!("{}", word(1));
            eprint!("{}", word(2));
            or_fail(std::io::stdout().flush());
        }
        "sleep" => std::thread::sleep(Duration::from_millis(number(1))),
        "spin" => spin(number(1)),
        "alloc" => alloc(number(1), number(2)),
        "trap" => deliberate_trap(),
        "flood" => flood(number(1), number(2)),
        "cat" => cat(word(1)),
        "write" => or_fail(std::fs::write(word(1), args[2..].join(" "))),
        "list" => or_fail(list(word(1))),
        other => {
            eprintln!("unknown: {other}");
            exit(64)
        }
    }
}

/// Runs for some milliseconds, or for ever when 0.
fn spin(milliseconds: u64) {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    while milliseconds == 0 || Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Takes MiB after MiB, then holds them for some milliseconds. Without memory std aborts: a trap.
fn alloc(mebibytes: u64, hold_milliseconds: u64) {
    let blocks: Vec<Vec<u8>> = (0..mebibytes).map(|_| vec![1; 1 << 20]).collect();
    println!("allocated {} MiB", blocks.len());
    std::thread::sleep(Duration::from_millis(hold_milliseconds));
}

#[inline(never)]
fn deliberate_trap() {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable()
}

/// Prints `lines` lines of `width` bytes.
fn flood(lines: u64, width: u64) {
    let line = "x".repeat(width as usize);
    let mut out = std::io::stdout().lock();
    for i in 0..lines {
        or_fail(writeln!(out, "{i} {line}"));
    }
}

/// A file, or stdin, to stdout.
fn cat(path: &str) {
    let mut text = Vec::new();
    or_fail(match path {
        "" | "-" => std::io::stdin().read_to_end(&mut text).map(drop),
        path => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text)).map(drop),
    });
    or_fail(std::io::stdout().write_all(&text));
}

fn list(path: &str) -> std::io::Result<()> {
    for entry in std::fs::read_dir(if path.is_empty() { "/" } else { path })? {
        println!("{}", entry?.path().display());
    }
    Ok(())
}

fn or_fail(result: std::io::Result<()>) {
    if let Err(e) = result {
        eprintln!("{e}");
        exit(1)
    }
}

fn exit_with(code: u8) -> ! {
    #[cfg(target_env = "p2")]
    wasip2::cli::exit::exit_with_code(code);
    exit(code.into())
}
