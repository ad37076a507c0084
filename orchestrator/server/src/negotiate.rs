//! What the caller wants to get: media type and shape from `Accept`, media type of a body from
//! `Content-Type`. Pure.

use std::cmp::Reverse;

use http::{HeaderMap, header};

use catamaran_api::status::Status;

/// Media types of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml`
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

/// The best acceptable entry of `Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Media type.
    pub media: Media,
    /// Shape.
    pub shape: Shape,
}

/// Which forms a resource can be served in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shapes {
    /// Every shape, in every media type (a Table only as text).
    All,
    /// Every shape; the object itself only as text: it comes from a definition.
    WholeAsText,
    /// Only the object itself.
    WholeOnly,
}

/// Whether one answer is asked for, or a stream of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// One answer.
    Once,
    /// A watch.
    Stream,
}

const SERVED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

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

impl MediaRange<'_> {
    /// The weight of the entry in thousandths (RFC 9110, 12.4.2); what is no number counts as 1.
    fn weight(&self) -> u16 {
        let weight = self.parameter("q").and_then(|text| text.parse::<f32>().ok());
        // In bounds by the clamp.
        weight.map_or(1000, |weight| (weight.clamp(0.0, 1.0) * 1000.0) as u16)
    }
}

/// The entries of `Accept`, best first: by weight, then the more special ones, then as they were sent; without those
/// of no weight. Empty when there is no header.
pub fn accept_entries(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut entries: Vec<MediaRange<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(MediaRange::parse)
        .filter(|entry| entry.weight() > 0)
        .collect();
    entries.sort_by_key(|entry| (Reverse(entry.weight()), entry.name.matches('*').count()));
    entries
}

/// Chooses media type and shape.
///
/// # Errors
/// 406 when nothing in `Accept` is served.
pub fn accept(headers: &HeaderMap, shapes: Shapes, flow: Flow) -> Result<Accepted, Status> {
    let entries = accept_entries(headers);
    if entries.is_empty() && !headers.contains_key(header::ACCEPT) {
        return Ok(Accepted { media: Media::Json, shape: Shape::Whole });
    }
    entries.iter().find_map(|entry| entry_of(entry, shapes, flow)).ok_or_else(|| {
        Status::not_acceptable(match flow {
            Flow::Once => &SERVED,
            Flow::Stream => &STREAMED,
        })
    })
}

/// The media type for a failure: whatever the caller takes of what a Status can be written in.
pub fn of_failure(headers: &HeaderMap) -> Media {
    let media = accept_entries(headers).iter().find_map(|entry| media_of(entry.name));
    media.unwrap_or(Media::Json)
}

fn media_of(name: &str) -> Option<Media> {
    match name {
        "application/json" | "application/*" | "*/*" => Some(Media::Json),
        "application/yaml" => Some(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
        _ => None,
    }
}

fn entry_of(entry: &MediaRange<'_>, shapes: Shapes, flow: Flow) -> Option<Accepted> {
    let media = media_of(entry.name)?;
    let streams = media != Media::Yaml;
    if flow == Flow::Stream && !streams
        || entry.parameter("stream").is_some_and(|form| !streams || form != "watch")
    {
        return None;
    }
    let shape = shape_of(entry)?;
    let fits = match (shape, shapes, media) {
        // A Table has no protobuf form.
        (Shape::Table(_), _, Media::Protobuf) | (Shape::Whole, Shapes::WholeAsText, Media::Protobuf) => false,
        (Shape::Whole, ..) => true,
        (Shape::Table(_) | Shape::Metadata(_), shapes, _) => shapes != Shapes::WholeOnly,
    };
    fits.then_some(Accepted { media, shape })
}

/// The shape that an entry asks for; none when there is no such shape.
fn shape_of(entry: &MediaRange<'_>) -> Option<Shape> {
    let version = match entry.parameter("v") {
        Some("v1beta1") => "v1beta1",
        Some("v1") | None => "v1",
        Some(_) => return None,
    };
    let group = entry.parameter("g");
    match entry.parameter("as") {
        None => (group.is_none() && entry.parameter("v").is_none()).then_some(Shape::Whole),
        Some(_) if group.is_some_and(|group| group != "meta.k8s.io") => None,
        Some("Table") => Some(Shape::Table(version)),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Shape::Metadata(version)),
        Some(_) => None,
    }
}

/// The media type of a request body; JSON when it is not said.
///
/// # Errors
/// 415 when it is another one.
pub fn body_media(headers: &HeaderMap) -> Result<Media, Status> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
    match MediaRange::parse(value.to_str().unwrap_or_default()).name {
        "" | "*/*" | "application/json" => Ok(Media::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(&SERVED)),
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
            ("application/vnd.kubernetes.protobuf,application/json", Media::Protobuf, Shape::Whole),
            ("application/vnd.kubernetes.protobuf, */*", Media::Protobuf, Shape::Whole),
            (
                "application/json;q=0.5, application/vnd.kubernetes.protobuf;q=0.9",
                Media::Protobuf,
                Shape::Whole,
            ),
            ("application/json, application/vnd.kubernetes.protobuf;q=0", Media::Json, Shape::Whole),
            ("*/*, application/yaml", Media::Yaml, Shape::Whole),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                Media::Json,
                Shape::Whole,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                Media::Protobuf,
                Shape::Metadata("v1"),
            ),
            ("application/json;g=apidiscovery.k8s.io;v=v2, application/yaml", Media::Yaml, Shape::Whole),
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
            let got = accept(&headers(header::ACCEPT, value), Shapes::All, Flow::Once).unwrap();
            assert_eq!(got, Accepted { media, shape }, "{value}");
        }
        assert_eq!(accept(&HeaderMap::new(), Shapes::All, Flow::Once).unwrap().media, Media::Json);
    }

    #[test]
    fn refused() {
        let refuses = |value: &str, shapes, flow| {
            let refusal = accept(&headers(header::ACCEPT, value), shapes, flow).unwrap_err();
            assert_eq!(refusal.code, 406, "{value}");
            refusal.message
        };
        for value in ["text/html", "application/json;as=Table;v=v2", "application/json;q=0"] {
            let message = refuses(value, Shapes::All, Flow::Once);
            assert_eq!(
                message,
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            );
        }
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        refuses(table, Shapes::WholeOnly, Flow::Once);
        refuses("application/vnd.kubernetes.protobuf", Shapes::WholeAsText, Flow::Once);
        assert!(
            refuses("application/yaml", Shapes::All, Flow::Stream).ends_with(
                ": application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
            )
        );
    }

    #[test]
    fn streams() {
        for (value, media) in [
            ("application/vnd.kubernetes.protobuf;stream=watch", Media::Protobuf),
            ("application/yaml, application/json;stream=watch", Media::Json),
            ("application/json;stream=other, application/vnd.kubernetes.protobuf", Media::Protobuf),
        ] {
            let got = accept(&headers(header::ACCEPT, value), Shapes::All, Flow::Stream).unwrap();
            assert_eq!(got.media, media, "{value}");
        }
    }

    #[test]
    fn failures_are_told_in_what_is_asked_for() {
        for (value, media) in [
            ("application/vnd.kubernetes.protobuf, */*", Media::Protobuf),
            ("text/html", Media::Json),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", Media::Json),
        ] {
            assert_eq!(of_failure(&headers(header::ACCEPT, value)), media, "{value}");
        }
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
