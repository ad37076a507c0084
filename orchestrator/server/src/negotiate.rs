//! What the caller wants to get: media type and shape from `Accept`, media type of a body from
//! `Content-Type`. Pure.

use http::{HeaderMap, header};

use catamaran_api::status::Status;

/// Media types of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml` (JSON text, which is YAML)
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Media {
    /// The media type.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Forms of an object or a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Whole,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata or its list, of this version.
    Metadata(&'static str),
}

/// The first acceptable entry of `Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Media type.
    pub media: Media,
    /// Shape.
    pub shape: Shape,
}

/// Which shapes a resource can be served in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shapes {
    /// Every shape.
    All,
    /// Only the object itself.
    WholeOnly,
}

const SERVED: [&str; 2] = ["application/json", "application/yaml"];

/// One entry of a header that lists media types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRange<'a> {
    /// `type/subtype`, lower case as sent.
    pub name: &'a str,
    /// Parameters in order.
    pub parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    /// Reads one entry.
    pub fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters =
            parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
        MediaRange { name, parameters }
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// The entries of `Accept`, in order; empty when there is no header.
pub fn accept_entries(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(MediaRange::parse)
        .collect()
}

/// Chooses media type and shape.
///
/// # Errors
/// 406 when nothing in `Accept` is served.
pub fn accept(headers: &HeaderMap, shapes: Shapes) -> Result<Accepted, Status> {
    let entries = accept_entries(headers);
    if entries.is_empty() {
        return Ok(Accepted { media: Media::Json, shape: Shape::Whole });
    }
    entries.iter().find_map(|entry| entry_of(entry, shapes)).ok_or_else(|| Status::not_acceptable(&SERVED))
}

fn entry_of(entry: &MediaRange<'_>, shapes: Shapes) -> Option<Accepted> {
    let media = match entry.name {
        "application/json" | "application/*" | "*/*" => Media::Json,
        "application/yaml" => Media::Yaml,
        _ => return None,
    };
    let version = match entry.parameter("v") {
        Some("v1beta1") => "v1beta1",
        Some("v1") | None => "v1",
        Some(_) => return None,
    };
    let shape = match (entry.parameter("as"), shapes) {
        (None, _) => Shape::Whole,
        (Some("Table"), Shapes::All) => Shape::Table(version),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Shapes::All) => {
            Shape::Metadata(version)
        }
        _ => return None,
    };
    if shape != Shape::Whole && entry.parameter("g").is_some_and(|group| group != "meta.k8s.io") {
        return None;
    }
    Some(Accepted { media, shape })
}

/// The media type of a request body; JSON when it is not said.
///
/// # Errors
/// 415 when it is another one.
pub fn body_media(headers: &HeaderMap) -> Result<Media, Status> {
    const KNOWN: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
    match MediaRange::parse(value.to_str().unwrap_or_default()).name {
        "" | "*/*" | "application/json" => Ok(Media::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(&KNOWN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn accepted() {
        let table = [
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Media::Json,
                Shape::Table("v1"),
            ),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Media::Json, Shape::Table("v1beta1")),
            ("application/vnd.kubernetes.protobuf,application/json", Media::Json, Shape::Whole),
            ("application/vnd.kubernetes.protobuf, */*", Media::Json, Shape::Whole),
            ("*/*", Media::Json, Shape::Whole),
            ("application/yaml", Media::Yaml, Shape::Whole),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Media::Json,
                Shape::Metadata("v1"),
            ),
            ("application/json;as=Table;g=other;v=v1, application/json", Media::Json, Shape::Whole),
            ("application/json, */*;q=0.8", Media::Json, Shape::Whole),
        ];
        for (value, media, shape) in table {
            let got = accept(&headers(header::ACCEPT, value), Shapes::All).unwrap();
            assert_eq!(got, Accepted { media, shape }, "{value}");
        }
        assert_eq!(accept(&HeaderMap::new(), Shapes::All).unwrap().media, Media::Json);
    }

    #[test]
    fn refused() {
        for value in ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v2"] {
            assert_eq!(
                accept(&headers(header::ACCEPT, value), Shapes::All).unwrap_err().code,
                406,
                "{value}"
            );
        }
        let table = headers(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(accept(&table, Shapes::WholeOnly).unwrap_err().code, 406);
    }

    #[test]
    fn bodies() {
        assert_eq!(body_media(&HeaderMap::new()).unwrap(), Media::Json);
        for (value, media) in [
            ("application/json; charset=utf-8", Media::Json),
            ("application/yaml", Media::Yaml),
            ("application/vnd.kubernetes.protobuf", Media::Protobuf),
        ] {
            assert_eq!(body_media(&headers(header::CONTENT_TYPE, value)).unwrap(), media);
        }
        assert_eq!(body_media(&headers(header::CONTENT_TYPE, "text/plain")).unwrap_err().code, 415);
    }
}
