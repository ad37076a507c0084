//! JSON text, written piece by piece.

use bytes::Bytes;

/// Keeps track of commas.
#[derive(Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    comma: bool,
}

impl Writer {
    /// Starts a field; its value must follow.
    pub(super) fn field(&mut self, name: &str) -> &mut Self {
        self.text(name);
        self.out.push(b':');
        self.comma = false;
        self
    }

    pub(super) fn text(&mut self, text: &str) {
        self.separate();
        serde_json::to_writer(&mut self.out, text).expect("text and a vector cannot fail");
        self.comma = true;
    }

    /// Writes a value that is JSON already.
    pub(super) fn raw(&mut self, json: &str) {
        self.separate();
        self.out.extend_from_slice(json.as_bytes());
        self.comma = true;
    }

    pub(super) fn object(&mut self, fill: impl FnOnce(&mut Self)) {
        self.nest(b'{', b'}', fill);
    }

    pub(super) fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.nest(b'[', b']', fill);
    }

    pub(super) fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        self.array(|w| texts.into_iter().for_each(|text| w.text(text)));
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.out.shrink_to_fit();
        self.out.into()
    }

    fn nest(&mut self, open: u8, close: u8, fill: impl FnOnce(&mut Self)) {
        self.separate();
        self.out.push(open);
        self.comma = false;
        fill(self);
        self.out.push(close);
        self.comma = true;
    }

    fn separate(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
    }
}
