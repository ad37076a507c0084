//! One request on its way: who asks for what of which resource, and in which form the answer goes back.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use jiff::Timestamp;
use serde_json::Value;

use catamaran_api::kind::{self, Resource};
use catamaran_api::protobuf;
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::Revision;

use crate::authenticate::UserInfo;
use crate::body::{self, Body};
use crate::core::Core;
use crate::media::{self, Layout};
use crate::negotiate::{self, Accepted, Flow, Media, Shape, Shapes};
use crate::query::Query;
use crate::route::ResourceRequest;
use crate::warnings::Warnings;
use crate::{convert, encode, keys, table};

/// A request for a known resource, after authentication and authorization.
pub(crate) struct Context {
    pub(crate) core: Arc<Core>,
    pub(crate) request: ResourceRequest,
    /// The resource as it is asked for.
    pub(crate) resource: &'static Resource,
    /// The form that is kept; the same for nearly all.
    pub(crate) stored: &'static Resource,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) user: UserInfo,
    pub(crate) now: Timestamp,
    pub(crate) warnings: Warnings,
}

/// What a request brings along besides its path.
pub(crate) struct Asked {
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) user: UserInfo,
    pub(crate) now: Timestamp,
}

impl Context {
    pub(crate) fn new(
        core: Arc<Core>,
        request: ResourceRequest,
        resource: &'static Resource,
        asked: Asked,
    ) -> Self {
        let Asked { query, headers, user, now } = asked;
        Context {
            core,
            request,
            resource,
            stored: resource.stored_as().unwrap_or(resource),
            query,
            headers,
            user,
            now,
            warnings: Warnings::default(),
        }
    }

    /// The same caller asking for something else, such as the parent of a subresource.
    pub(crate) fn about(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Context {
        let request = ResourceRequest {
            group: resource.group.to_owned(),
            version: resource.version.to_owned(),
            namespace: namespace.map(str::to_owned),
            resource: resource.plural.to_owned(),
            name: name.map(str::to_owned),
            subresource: None,
            rest: String::new(),
            verb: self.request.verb,
        };
        let asked = Asked {
            query: Query::default(),
            headers: HeaderMap::new(),
            user: self.user.clone(),
            now: self.now,
        };
        // What is said on the way is said to the same caller.
        let warnings = self.warnings.clone();
        Context { warnings, ..Context::new(self.core.clone(), request, resource, asked) }
    }

    /// Group and plural, for messages.
    pub(crate) fn group_resource(&self) -> GroupResource<'static> {
        GroupResource::new(self.resource.group, self.resource.plural)
    }

    /// The namespace that objects are in; none for cluster scope.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.request.namespace.as_deref().filter(|_| self.resource.namespaced())
    }

    /// The name in the path.
    pub(crate) fn name(&self) -> &str {
        self.request.name.as_deref().unwrap_or_default()
    }

    /// The key of the object in the path.
    pub(crate) fn key(&self) -> String {
        keys::one(self.stored, self.namespace(), self.name())
    }

    /// Tells the caller something beside the answer.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.add(text.into());
    }

    /// The form of the answer.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn accepted(&self) -> Result<Accepted, Status> {
        negotiate::accept(&self.headers, self.shapes(), Flow::Once)
    }

    /// The form of a watch's events.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn accepted_stream(&self) -> Result<Accepted, Status> {
        negotiate::accept(&self.headers, self.shapes(), Flow::Stream)
    }

    fn shapes(&self) -> Shapes {
        let resource = self.resource;
        let kept = matches!(resource.storage, kind::Storage::At { .. });
        if !kept && !resource.allows(kind::Verb::List) {
            return Shapes::WholeOnly;
        }
        let has_protobuf = protobuf::has(resource.group, resource.version, resource.kind);
        if has_protobuf { Shapes::All } else { Shapes::WholeAsText }
    }

    /// How JSON is laid out: as asked, or for people where a person's program asks.
    pub(crate) fn layout(&self) -> Layout {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        let person = || {
            let agent = agent.unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
        };
        let pretty = match self.query.get("pretty") {
            Some(_) => self.query.flag("pretty"),
            None => person(),
        };
        if pretty { Layout::Pretty } else { Layout::Compact }
    }

    /// Whether stored bytes cannot be served as they are.
    pub(crate) fn converts(&self) -> bool {
        convert::needed(self.resource, self.stored)
    }

    /// Stored bytes as a value in the form that is asked for.
    ///
    /// # Errors
    /// 500 when the store holds something else.
    pub(crate) fn decode(&self, stored: &[u8], revision: Revision) -> Result<Value, Status> {
        let mut object = encode::decode(stored, revision).map_err(Status::internal_error)?;
        convert::to_served(&mut object, self.resource, self.stored);
        Ok(object)
    }

    /// An answer with a stored object.
    ///
    /// # Errors
    /// 406, or 500 when the store holds something else.
    pub(crate) fn stored(
        &self,
        code: u16,
        stored: &[u8],
        revision: Revision,
    ) -> Result<Response<Body>, Status> {
        let accepted = self.accepted()?;
        let as_it_is = accepted == Accepted { media: Media::Json, shape: Shape::Whole };
        if !as_it_is || self.converts() || self.layout() == Layout::Pretty {
            return self.value(code, &self.decode(stored, revision)?);
        }
        Ok(self.respond(code, accepted.media, encode::splice(stored, revision)))
    }

    /// An answer with an object of the resource.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn value(&self, code: u16, object: &Value) -> Result<Response<Body>, Status> {
        let accepted = self.accepted()?;
        let bytes = match accepted.shape {
            Shape::Whole => media::object(accepted.media, self.layout(), object),
            Shape::Metadata(version) => {
                media::object(accepted.media, self.layout(), &table::metadata(object, version))
            }
            Shape::Table(version) => {
                let options = table::Options::parse(&self.query, version)?;
                let subresource = self.request.subresource.as_deref();
                let table = table::of_one(self.resource, subresource, object, (&options, self.now));
                media::object(accepted.media, self.layout(), &table)
            }
        };
        Ok(self.respond(code, accepted.media, bytes?))
    }

    /// An answer with a Status, whatever shape is asked for.
    pub(crate) fn status(&self, status: &Status) -> Response<Body> {
        self.plain(status.code, &status.to_value())
    }

    /// An answer with an object that has no other shape than its own, such as a Status.
    pub(crate) fn plain(&self, code: u16, object: &Value) -> Response<Body> {
        let media = negotiate::of_failure(&self.headers);
        match media::object(media, self.layout(), object) {
            Ok(bytes) => self.respond(code, media, bytes),
            Err(_) => self.respond(code, Media::Json, object.to_string().into()),
        }
    }

    /// An answer with encoded bytes, compressed when long.
    pub(crate) fn respond(&self, code: u16, media: Media, bytes: Bytes) -> Response<Body> {
        let mut response = body::typed(code, media.as_str(), "");
        body::compress(&mut response, bytes, body::takes_gzip(&self.headers));
        response
    }
}
