//! Names of images: made whole the way container tools do it. Pure.

use oci_client::Reference;

use super::PullError;

/// The whole name: `nginx` becomes `docker.io/library/nginx:latest`.
pub(crate) fn normalize(name: &str) -> Result<String, PullError> {
    parse(name).map(|reference| reference.whole())
}

/// The parsed name.
pub(crate) fn parse(name: &str) -> Result<Reference, PullError> {
    name.parse().map_err(|error: oci_client::ParseError| PullError::Name {
        name: name.to_owned(),
        why: error.to_string(),
    })
}

/// Whether the name means the tag `latest`, said or not.
pub(crate) fn is_latest(name: &str) -> bool {
    parse(name).is_ok_and(|reference| {
        reference.digest().is_none() && matches!(reference.tag(), None | Some("latest"))
    })
}

/// `HOST/NAME@DIGEST`.
pub(crate) fn with_digest(reference: &Reference, digest: &str) -> String {
    format!("{}/{}@{digest}", reference.registry(), reference.repository())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_whole() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost:5000/hello", "localhost:5000/hello:latest"),
            ("localhost:5000/hello:v1", "localhost:5000/hello:v1"),
            ("registry.example/a/b/c:x", "registry.example/a/b/c:x"),
        ];
        for (name, expected) in table {
            assert_eq!(normalize(name).unwrap(), expected);
        }
        for wrong in ["", "localhost:5000/UPPER", "a b", "localhost:5000/", "x:"] {
            assert!(matches!(normalize(wrong), Err(PullError::Name { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn latest_is_said_or_not() {
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        let table = [("nginx", true), ("nginx:latest", true), ("nginx:1", false), (digest.as_str(), false)];
        for (name, expected) in table {
            assert_eq!(is_latest(name), expected, "{name}");
        }
    }
}
