//! What types and fields mean, in prose: kept compressed, since only published schemas need it.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{Special, Struct};

/// The unpacked texts; made for one document and dropped.
#[derive(Debug)]
pub struct Descriptions {
    lines: Vec<Box<str>>,
}

impl Descriptions {
    /// Unpacks all texts.
    pub fn read() -> Descriptions {
        let mut text = String::new();
        ZlibDecoder::new(&include_bytes!("descriptions.bin")[..])
            .read_to_string(&mut text)
            .expect("the generator wrote this file and a test reads it");
        Descriptions { lines: text.lines().map(unescape).collect() }
    }

    /// Of a struct.
    pub fn of_struct(&self, of: &Struct) -> &str {
        self.line(usize::from(of.line))
    }

    /// Of the field at that place.
    pub fn of_field(&self, of: &Struct, index: usize) -> &str {
        self.line(usize::from(of.line) + 1 + index)
    }

    pub(crate) fn of_special(&self, of: &Special) -> &str {
        self.line(usize::from(of.line))
    }

    fn line(&self, number: usize) -> &str {
        self.lines.get(number).map_or("", |line| line)
    }
}

fn unescape(line: &str) -> Box<str> {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next() == Some('n') => text.push('\n'),
            '\\' => text.push('\\'),
            c => text.push(c),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(
            &*unescape(
                r"a\n
b"
            ),
            "a\n
b"
        );
    }
}
