//! Addresses of outgoing requests: `http://HOST[:PORT]/PATH?QUERY` (RFC 3986).

/// The parts of an address that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    /// `HOST` or `HOST:PORT`.
    pub(crate) authority: String,
    pub(crate) path_with_query: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Why a text is no address for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UrlError {
    Scheme,
    Host,
    Character(char),
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        if let Some(bad) = text.chars().find(|c| c.is_ascii_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err(UrlError::Character(bad));
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            _ => return Err(UrlError::Scheme),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || authority.starts_with(':') || authority.contains('@') {
            return Err(UrlError::Host);
        }
        let path_with_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { scheme, authority: authority.to_owned(), path_with_query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let table = [
            ("http://shop", Scheme::Http, "shop", "/"),
            ("HTTP://shop:8080/a/b?c=d#e", Scheme::Http, "shop:8080", "/a/b?c=d"),
            ("https://[::1]:1?x", Scheme::Https, "[::1]:1", "/?x"),
        ];
        for (text, scheme, authority, path) in table {
            let expected = Url { scheme, authority: authority.to_owned(), path_with_query: path.to_owned() };
            assert_eq!(Url::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let table = [
            ("shop/x", UrlError::Scheme),
            ("ftp://shop", UrlError::Scheme),
            ("http:///x", UrlError::Host),
            ("http://:80/", UrlError::Host),
            ("http://me:secret@shop/", UrlError::Host),
            ("http://shop/a b", UrlError::Character(' ')),
            ("http://shop/\r\nx: y", UrlError::Character('\r')),
            ("http://shop/é", UrlError::Character('é')),
        ];
        for (text, expected) in table {
            assert_eq!(Url::parse(text), Err(expected), "{text}");
        }
    }
}
