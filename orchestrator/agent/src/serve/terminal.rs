//! A terminal for programs that have none: what the kernel's line discipline does between a keyboard in raw mode and a
//! program that reads lines (termios(3): ICANON, ECHO, ECHOE, ECHOCTL, ICRNL, ISIG, ONLCR). Pure.

use bytes::Bytes;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const QUIT: u8 = 0x1c;
const DELETE: u8 = 0x7f;
/// What takes a character off the screen again.
const ERASE: &[u8] = b"\x08 \x08";
/// A line is given to the program when it is this long, finished or not.
const LONGEST_LINE: usize = 4096;

/// The line that is being typed.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    line: Vec<u8>,
}

/// What becomes of some keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Typed {
    /// Whole lines, for the program.
    pub(super) lines: Vec<u8>,
    /// For the screen.
    pub(super) echo: Vec<u8>,
    pub(super) then: Then,
}

/// What happens after the lines were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    #[default]
    GoOn,
    /// The input ends (control-D on an empty line).
    End,
    /// The program is to be ended (control-C).
    Interrupt,
}

impl Terminal {
    /// Takes keys as they are typed. What comes after the end or an interrupt is lost.
    pub(super) fn type_keys(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            match *key {
                b'\r' | b'\n' => {
                    typed.echo.extend_from_slice(b"\r\n");
                    self.line.push(b'\n');
                    typed.lines.append(&mut self.line);
                }
                END if self.line.is_empty() => {
                    typed.then = Then::End;
                    return typed;
                }
                // What was typed so far goes to the program, without an end of line.
                END => typed.lines.append(&mut self.line),
                INTERRUPT | QUIT => {
                    echo_key(*key, &mut typed.echo);
                    self.line.clear();
                    typed.then = Then::Interrupt;
                    return typed;
                }
                BACKSPACE | DELETE => self.erase(&mut typed.echo),
                KILL_LINE => {
                    while !self.line.is_empty() {
                        self.erase(&mut typed.echo);
                    }
                }
                key => {
                    self.line.push(key);
                    echo_key(key, &mut typed.echo);
                    if self.line.len() >= LONGEST_LINE {
                        typed.lines.append(&mut self.line);
                    }
                }
            }
        }
        typed
    }

    /// Takes back the last character of the line.
    fn erase(&mut self, echo: &mut Vec<u8>) {
        while let Some(byte) = self.line.pop() {
            // The bytes that go on a character of UTF-8 have no place of their own.
            if byte & 0xc0 == 0x80 {
                continue;
            }
            echo.extend_from_slice(ERASE);
            if is_control(byte) {
                echo.extend_from_slice(ERASE);
            }
            return;
        }
    }
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t'
}

/// Control characters are shown as `^C`.
fn echo_key(key: u8, echo: &mut Vec<u8>) {
    if is_control(key) { echo.extend_from_slice(&[b'^', key ^ 0x40]) } else { echo.push(key) }
}

/// What a program writes, for a screen in raw mode.
pub(super) fn show(text: Bytes) -> Bytes {
    if !text.contains(&b'\n') {
        return text;
    }
    let mut shown = Vec::with_capacity(text.len() + 16);
    for byte in &text {
        if *byte == b'\n' {
            shown.push(b'\r');
        }
        shown.push(*byte);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_lines() {
        let table = [
            (&b"jane\r"[..], &b"jane\n"[..], &b"jane\r\n"[..], Then::GoOn),
            (b"a\nb\r", b"a\nb\n", b"a\r\nb\r\n", Then::GoOn),
            (b"half", b"", b"half", Then::GoOn),
            (b"ab\x7fc\r", b"ac\n", b"ab\x08 \x08c\r\n", Then::GoOn),
            (b"\x7f\x08\r", b"\n", b"\r\n", Then::GoOn),
            ("ü\x7f\r".as_bytes(), b"\n", "ü\x08 \x08\r\n".as_bytes(), Then::GoOn),
            (b"ab\x15c\r", b"c\n", b"ab\x08 \x08\x08 \x08c\r\n", Then::GoOn),
            (b"\x1b[A\x7f\r", b"\x1b[\n", b"^[[A\x08 \x08\r\n", Then::GoOn),
            (b"x\x04y\r\x04z", b"xy\n", b"xy\r\n", Then::End),
            (b"x\x03y", b"", b"x^C", Then::Interrupt),
        ];
        for (keys, lines, echo, then) in table {
            let expected = Typed { lines: lines.into(), echo: echo.into(), then };
            assert_eq!(Terminal::default().type_keys(keys), expected, "{keys:?}");
        }
    }

    #[test]
    fn a_line_is_kept_between_keys() {
        let mut terminal = Terminal::default();
        for key in b"hi" {
            assert_eq!(terminal.type_keys(&[*key]).lines, b"");
        }
        assert_eq!(terminal.type_keys(b"\r").lines, b"hi\n");
        assert_eq!(terminal.type_keys(&[b'x'; LONGEST_LINE]).lines.len(), LONGEST_LINE);
    }

    #[test]
    fn lines_begin_at_the_left() {
        for (text, shown) in [("a\nb", "a\r\nb"), ("ab", "ab"), ("\n", "\r\n")] {
            assert_eq!(show(Bytes::from(text)), shown);
        }
    }
}
