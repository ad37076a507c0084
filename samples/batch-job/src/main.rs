//! A batch program that shares its work: of SHARES pods of an indexed Job each adds up its part of the series for pi
//! and prints it.

use std::process::ExitCode;

/// Terms of the series 4/1 - 4/3 + 4/5 - ... that one share adds up.
const TERMS: u64 = 2_000_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (index, shares) = (number("JOB_COMPLETION_INDEX")?, number("SHARES")?);
    if index >= shares {
        return Err(format!("share {index} of {shares} does not exist"));
    }
    let sum = share(index, shares, TERMS);
    println!("share {index} of {shares}: {sum:.9}");
    Ok(())
}

fn number(name: &str) -> Result<u64, String> {
    let text = std::env::var(name).map_err(|_| format!("{name} is not set"))?;
    text.parse().map_err(|_| format!("{name}: {text:?} is not a number"))
}

/// Every `shares`-th term from the `index`-th on.
fn share(index: u64, shares: u64, terms: u64) -> f64 {
    (0..terms)
        .map(|n| index + n * shares)
        .map(|k| if k % 2 == 0 { 4.0 } else { -4.0 } / (2 * k + 1) as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_pi_together() {
        let sum: f64 = (0..3).map(|index| share(index, 3, 1_000_000)).sum();
        assert!((sum - std::f64::consts::PI).abs() < 1e-6, "{sum}");
    }
}
