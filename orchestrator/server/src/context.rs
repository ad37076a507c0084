//! One request on its way: who asks for what of which resource, and in which form the answer goes back.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use jiff::Timestamp;
use serde_json::Value;

use catamaran_api::kind::Resource;
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::Revision;

use crate::authenticate::UserInfo;
use crate::body::{self, Body};
use crate::core::Core;
use crate::custom::Custom;
use crate::negotiate::{self, Accepted, Media, Shape, Shapes};
use crate::query::Query;
use crate::route::ResourceRequest;
use crate::{convert, encode, keys, table};

/// A request for a known resource, after authentication and authorization.
pub(crate) struct Context {
    pub(crate) core: Arc<Core>,
    pub(crate) request: ResourceRequest,
    /// The resource as it is asked for.
    pub(crate) resource: &'static Resource,
    /// The form that is kept; the same for nearly all.
    pub(crate) stored: &'static Resource,
    /// The definition behind a custom resource.
    pub(crate) custom: Option<Arc<Custom>>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) user: UserInfo,
    pub(crate) now: Timestamp,
    warnings: Mutex<Vec<String>>,
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
            custom: None,
            query,
            headers,
            user,
            now,
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// The request is about a custom resource.
    pub(crate) fn with_custom(self, custom: Option<Arc<Custom>>) -> Self {
        let stored = custom.as_ref().map_or(self.stored, |custom| custom.stored);
        Context { stored, custom, ..self }
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
        let custom = self.custom.clone().filter(|custom| std::ptr::eq(custom.resource, resource));
        Context::new(self.core.clone(), request, resource, asked).with_custom(custom)
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
        let text = text.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        // A change that is tried again warns again.
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The form of the answer.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn accepted(&self) -> Result<Accepted, Status> {
        let shapes = match self.resource.storage {
            catamaran_api::kind::Storage::At { .. } => Shapes::All,
            catamaran_api::kind::Storage::Transient => Shapes::WholeOnly,
        };
        negotiate::accept(&self.headers, shapes)
    }

    /// Whether stored bytes cannot be served as they are.
    pub(crate) fn converts(&self) -> bool {
        match &self.custom {
            Some(custom) => !custom.reads_as_stored(),
            None => convert::needed(self.resource, self.stored),
        }
    }

    /// From the form that is kept to the form that is asked for.
    ///
    /// # Errors
    /// 500 for a custom resource that cannot be converted.
    pub(crate) fn to_served(&self, object: &mut Value) -> Result<(), Status> {
        match &self.custom {
            Some(_) if !self.converts() => {}
            Some(custom) => custom.to_served(object)?,
            None => convert::to_served(object, self.resource, self.stored),
        }
        Ok(())
    }

    /// Stored bytes as a value in the form that is asked for.
    ///
    /// # Errors
    /// 500 when the store holds something else.
    pub(crate) fn decode(&self, stored: &[u8], revision: Revision) -> Result<Value, Status> {
        let mut object = encode::decode(stored, revision).map_err(Status::internal_error)?;
        self.to_served(&mut object)?;
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
        if self.converts() || self.accepted()?.shape != Shape::Whole {
            return self.value(code, &self.decode(stored, revision)?);
        }
        Ok(self.respond(code, self.accepted()?.media, encode::splice(stored, revision)))
    }

    /// An answer with an object of the resource.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn value(&self, code: u16, object: &Value) -> Result<Response<Body>, Status> {
        let accepted = self.accepted()?;
        let bytes = match accepted.shape {
            Shape::Whole => serde_json::to_vec(object),
            Shape::Metadata(version) => serde_json::to_vec(&table::metadata(object, version)),
            Shape::Table(version) => {
                let options = table::Options::parse(&self.query, version)?;
                serde_json::to_vec(&table::of_one(
                    self.printed(),
                    self.request.subresource.as_deref(),
                    object,
                    (&options, self.now),
                ))
            }
        };
        Ok(self.respond(code, accepted.media, bytes.map_err(Status::internal_error)?.into()))
    }

    /// How the resource is shown as a Table.
    pub(crate) fn printed(&self) -> table::Printed<'_> {
        let columns = self.custom.as_ref().map(|custom| &custom.version().columns);
        table::Printed { resource: self.resource, columns }
    }

    /// An answer with a Status.
    pub(crate) fn status(&self, status: &Status) -> Response<Body> {
        self.respond(status.code, Media::Json, status.to_json().into())
    }

    /// An answer with encoded bytes, compressed when long; warnings go along.
    pub(crate) fn respond(&self, code: u16, media: Media, bytes: Bytes) -> Response<Body> {
        let mut response = body::typed(code, media.as_str(), "");
        body::compress(&mut response, bytes, body::takes_gzip(&self.headers));
        self.add_warnings(&mut response);
        response
    }

    /// Adds the warnings so far as `Warning` headers (RFC 7234, code 299).
    pub(crate) fn add_warnings(&self, response: &mut Response<Body>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let long = warnings.iter().map(|text| text.chars().count()).sum::<usize>() > 4096;
        for text in warnings.drain(..) {
            let text: String = if long { text.chars().take(256).collect() } else { text };
            let quoted = text.replace(['\n', '\r'], " ").replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
    }
}
