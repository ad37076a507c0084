//! ttrpc in one place: names of the services, payloads of `catamaran.task.v1.Pods`, and how errors
//! travel. Payloads are JSON inside the ttrpc message (`orchestrator/decisions/0001`).

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::ttrpc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ttrpc::r#async::{Client, MethodHandler, Service, TtrpcContext, transport::Socket};

use crate::pods::{ExecSpec, TaskError};
use crate::spec::{ContainerId, ContainerSpec};

/// Our own service, beside containerd's on the same socket.
pub(crate) const PODS: &str = "catamaran.task.v1.Pods";
/// containerd's Task API, as containerd 1.x calls it.
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The same messages under the name that containerd 2.x calls.
pub const TASK_V3: &str = "containerd.task.v3.Task";

/// ttrpc refuses messages above 4 MiB; batches and pages stay below this, so that the envelope fits.
pub(crate) const PAYLOAD_TARGET: usize = 2 << 20;

#[derive(Serialize, Deserialize)]
pub(crate) struct CreateRequest {
    pub containers: Vec<ContainerSpec>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct IdRequest {
    pub id: ContainerId,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct KillRequest {
    pub id: ContainerId,
    pub exec_id: Option<String>,
    pub signal: i32,
}

/// `ids` empty: all, in order of their ids, from the one after `after`.
#[derive(Serialize, Deserialize)]
pub(crate) struct PageRequest {
    pub ids: Vec<ContainerId>,
    pub after: Option<ContainerId>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    /// Ask again with this as `after`; `None`: that was all.
    pub next: Option<ContainerId>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExitsRequest {
    pub after: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub id: ContainerId,
    pub exec: ExecSpec,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExecIdRequest {
    pub id: ContainerId,
    pub exec_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ResizeRequest {
    pub id: ContainerId,
    pub exec_id: Option<String>,
    pub width: u16,
    pub height: u16,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct UpdateRequest {
    pub id: ContainerId,
    pub resources: oci_spec::runtime::LinuxResources,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AdoptRequest {
    pub id: ContainerId,
    pub port: u16,
    pub token: String,
}

/// What a call came to, where it did not succeed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The shim answered with an error.
    Refused(TaskError),
    /// The request never left: it may be sent again whatever it is.
    NotSent(String),
    /// The connection broke before the answer came: the call may or may not have taken effect.
    Lost(String),
}

/// One connection to a shim; calls run side by side on it.
#[derive(Clone)]
pub(crate) struct Connection {
    client: Client,
}

impl Connection {
    pub(crate) async fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        Ok(Self { client: Client::new(Socket::from(stream)) })
    }

    /// Calls `method` of our own service.
    pub(crate) async fn call<A: DeserializeOwned>(
        &self,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<A, CallError> {
        let request =
            ttrpc::Request { service: PODS.into(), method: method.into(), payload, ..Default::default() };
        let response = self.client.request(request).await.map_err(call_error)?;
        serde_json::from_slice(&response.payload)
            .map_err(|e| CallError::Refused(TaskError::Failed(format!("the shim's answer to {method}: {e}"))))
    }
}

fn call_error(error: ttrpc::Error) -> CallError {
    match error {
        ttrpc::Error::RpcStatus(status) => CallError::Refused(from_status(&status)),
        ttrpc::Error::LocalClosed => CallError::NotSent("the connection is closed".into()),
        ttrpc::Error::Others(text) => CallError::Refused(TaskError::InvalidArgument(text)),
        lost => CallError::Lost(lost.to_string()),
    }
}

/// The code says which kind, the message what is inside the variant.
pub(crate) fn to_status(error: &TaskError) -> ttrpc::Status {
    use ttrpc::Code;
    let (code, message) = match error {
        TaskError::NotFound(m) => (Code::NOT_FOUND, m),
        TaskError::AlreadyExists(m) => (Code::ALREADY_EXISTS, m),
        TaskError::FailedPrecondition(m) => (Code::FAILED_PRECONDITION, m),
        TaskError::InvalidArgument(m) => (Code::INVALID_ARGUMENT, m),
        TaskError::Unimplemented(m) => (Code::UNIMPLEMENTED, m),
        TaskError::Failed(m) => (Code::UNKNOWN, m),
        TaskError::Unavailable(m) => (Code::UNAVAILABLE, m),
    };
    ttrpc::get_status(code, message)
}

/// The way back of [`to_status`]; codes that we never send count as failures.
pub(crate) fn from_status(status: &ttrpc::Status) -> TaskError {
    use ttrpc::Code;
    let message = status.message.clone();
    match status.code() {
        Code::NOT_FOUND => TaskError::NotFound(message),
        Code::ALREADY_EXISTS => TaskError::AlreadyExists(message),
        Code::FAILED_PRECONDITION => TaskError::FailedPrecondition(message),
        Code::INVALID_ARGUMENT => TaskError::InvalidArgument(message),
        Code::UNIMPLEMENTED => TaskError::Unimplemented(message),
        Code::UNAVAILABLE => TaskError::Unavailable(message),
        _ => TaskError::Failed(message),
    }
}

/// A method of our service: JSON in, `call`, JSON out.
struct Json<Q, F> {
    call: F,
    request: PhantomData<fn(Q)>,
}

#[async_trait]
impl<Q, A, F, Fut> MethodHandler for Json<Q, F>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Fn(Q) -> Fut + Send + Sync,
    Fut: Future<Output = Result<A, TaskError>> + Send,
{
    async fn handler(&self, _: TtrpcContext, request: ttrpc::Request) -> ttrpc::Result<ttrpc::Response> {
        let mut response = ttrpc::Response::new();
        match self.answer(&request.payload).await {
            Ok(payload) => {
                response.payload = payload;
                response.set_status(ttrpc::get_status(ttrpc::Code::OK, ""));
            }
            Err(error) => response.set_status(to_status(&error)),
        }
        Ok(response)
    }
}

impl<Q, A, F, Fut> Json<Q, F>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Fn(Q) -> Fut,
    Fut: Future<Output = Result<A, TaskError>>,
{
    async fn answer(&self, payload: &[u8]) -> Result<Vec<u8>, TaskError> {
        let request = serde_json::from_slice(payload)
            .map_err(|e| TaskError::InvalidArgument(format!("the request does not parse: {e}")))?;
        let answer = (self.call)(request).await?;
        serde_json::to_vec(&answer).map_err(|e| TaskError::Failed(format!("the answer does not encode: {e}")))
    }
}

/// The methods of our service, collected by name.
#[derive(Default)]
pub(crate) struct Methods(HashMap<String, Box<dyn MethodHandler + Send + Sync>>);

impl Methods {
    /// A call that only looks or waits: it ends when its caller goes away.
    pub(crate) fn read<S, Q, A, F, Fut>(mut self, name: &str, service: &Arc<S>, call: F) -> Self
    where
        S: ?Sized + Send + Sync + 'static,
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Fn(Arc<S>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, TaskError>> + Send + 'static,
    {
        let service = Arc::clone(service);
        let call = move |request| call(Arc::clone(&service), request);
        self.0.insert(name.into(), Box::new(Json { call, request: PhantomData }));
        self
    }

    /// A call that changes something: once begun it runs to its end, also when its caller dies.
    pub(crate) fn write<S, Q, A, F, Fut>(self, name: &str, service: &Arc<S>, call: F) -> Self
    where
        S: ?Sized + Send + Sync + 'static,
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Fn(Arc<S>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, TaskError>> + Send + 'static,
    {
        self.read(name, service, move |service, request| to_the_end(call(service, request)))
    }

    pub(crate) fn into_service(self) -> HashMap<String, Service> {
        let service = Service { methods: self.0, streams: HashMap::new() };
        HashMap::from([(PODS.to_owned(), service)])
    }
}

/// Runs `work` in a task of its own, so that dropping the caller does not stop it half-way.
pub(crate) async fn to_the_end<A: Send + 'static>(
    work: impl Future<Output = Result<A, TaskError>> + Send + 'static,
) -> Result<A, TaskError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(TaskError::Failed(format!("the call ended abnormally: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_travel_both_ways() {
        for error in [
            TaskError::NotFound("container a".into()),
            TaskError::AlreadyExists("b".into()),
            TaskError::FailedPrecondition("c".into()),
            TaskError::InvalidArgument("d".into()),
            TaskError::Unimplemented("e".into()),
            TaskError::Failed("f".into()),
            TaskError::Unavailable("g".into()),
        ] {
            assert_eq!(from_status(&to_status(&error)), error);
        }
    }
}
