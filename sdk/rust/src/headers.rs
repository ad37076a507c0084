//! Header fields: an ordered list, names without regard to case (RFC 9110, section 5.1).

/// The header fields of a request or response, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of a field, when it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.find_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// Adds a value, beside those that are there.
    pub fn append(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((name.into(), value.into()));
    }

    /// Sets a field to one value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    /// Names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Fields that concern one connection only (RFC 9110, section 7.6.1): a response that is passed on is sent without
    /// them, and hosts refuse them.
    #[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "of use where there is a host"))]
    pub(crate) fn without_hop_by_hop(&self) -> impl Iterator<Item = (&str, &[u8])> {
        const OF_THE_CONNECTION: [&str; 8] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "http2-settings",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        self.iter().filter(|(name, _)| !OF_THE_CONNECTION.iter().any(|of| of.eq_ignore_ascii_case(name)))
    }
}

impl From<Vec<(String, Vec<u8>)>> for Headers {
    fn from(fields: Vec<(String, Vec<u8>)>) -> Self {
        Headers(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        let mut headers = Headers::default();
        headers.append("Accept", "a");
        headers.append("accept", "b");
        headers.append("X-Raw", vec![0xff]);
        assert_eq!(headers.get("ACCEPT"), Some("a"));
        assert_eq!(headers.all("accept").count(), 2);
        assert_eq!((headers.get("x-raw"), headers.get("none")), (None, None));
        headers.set("ACCEPT", "c");
        assert_eq!(headers.all("accept").collect::<Vec<_>>(), [b"c"]);
        headers.remove("x-RAW");
        assert_eq!(headers.iter().count(), 1);
    }

    #[test]
    fn fields_of_the_connection_are_not_passed_on() {
        let fields = [("Connection", "close"), ("content-type", "a"), ("Transfer-Encoding", "chunked")];
        let headers = Headers(fields.map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec())).to_vec());
        assert_eq!(headers.without_hop_by_hop().map(|(name, _)| name).collect::<Vec<_>>(), ["content-type"]);
    }
}
