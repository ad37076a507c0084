//! Where a redirection of somebody behind a proxy leads, as seen from before it. Pure.

/// Rewrites a `Location` that leads to one of `hosts` (how the target is reached, and as whom the client asked for it)
/// or to an absolute path, so that it leads through the proxy at `prefix` again. Others stay as they are.
pub(super) fn rewrite(location: &str, hosts: &[String; 2], prefix: &str) -> String {
    let (origin, host, rest) = match location.split_once("//") {
        // `scheme://host/…` and `//host/…`.
        Some((scheme, rest)) if scheme.is_empty() || is_scheme(scheme) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (&location[..scheme.len() + 2 + end], &rest[..end], &rest[end..])
        }
        _ => ("", "", location),
    };
    let [target, asked] = hosts;
    let elsewhere = !host.is_empty() && host != target && host != asked;
    if elsewhere || !rest.starts_with('/') {
        return location.to_owned();
    }
    // Who was asked by that name is asked by it again.
    let origin = if !host.is_empty() && host == asked { origin } else { "" };
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let through = path == prefix || path.strip_prefix(prefix).is_some_and(|below| below.starts_with('/'));
    let prefix = if through { "" } else { prefix };
    format!("{origin}{prefix}{rest}")
}

fn is_scheme(text: &str) -> bool {
    text.strip_suffix(':').is_some_and(|scheme| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections() {
        let hosts = ["10.1.0.1:80".to_owned(), "localhost:8001".to_owned()];
        let prefix = "/api/v1/namespaces/d/pods/p/proxy";
        let table = [
            ("/login", "/api/v1/namespaces/d/pods/p/proxy/login"),
            ("/login/?a=/b#c", "/api/v1/namespaces/d/pods/p/proxy/login/?a=/b#c"),
            ("/", "/api/v1/namespaces/d/pods/p/proxy/"),
            ("login", "login"),
            ("?a=b", "?a=b"),
            ("#x", "#x"),
            ("../a//b", "../a//b"),
            ("http://10.1.0.1:80/a", "/api/v1/namespaces/d/pods/p/proxy/a"),
            ("http://localhost:8001/a", "http://localhost:8001/api/v1/namespaces/d/pods/p/proxy/a"),
            ("//10.1.0.1:80/a", "/api/v1/namespaces/d/pods/p/proxy/a"),
            ("https://example.com/a", "https://example.com/a"),
            ("http://10.1.0.1:80", "http://10.1.0.1:80"),
            ("/api/v1/namespaces/d/pods/p/proxy/a", "/api/v1/namespaces/d/pods/p/proxy/a"),
            (
                "/api/v1/namespaces/d/pods/p/proxyed",
                "/api/v1/namespaces/d/pods/p/proxy/api/v1/namespaces/d/pods/p/proxyed",
            ),
            (
                "http://localhost:8001/api/v1/namespaces/d/pods/p/proxy/a?x#y",
                "http://localhost:8001/api/v1/namespaces/d/pods/p/proxy/a?x#y",
            ),
        ];
        for (location, expected) in table {
            assert_eq!(rewrite(location, &hosts, prefix), expected, "{location}");
        }
    }
}
