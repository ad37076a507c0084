//! HTTP's part of a switch of protocols: to WebSocket (RFC 6455) or to SPDY/3.1. The protocol inside of it is named by a
//! header of its own, of which the client sends all that it knows.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Refusal;
use crate::spdy::Connection;

/// Header with the protocols inside of SPDY.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a client wants to switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Spdy,
}

/// The answer to a client, and what it switches to once it has that.
pub(super) struct Switch<T> {
    pub(super) response: Response,
    /// What was chosen of what the client offers.
    pub(super) chosen: T,
    upgrade: OnUpgrade,
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, text.into())
}

/// All values of a header that is a list.
fn listed(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|value| value.trim().to_owned()).collect()
}

/// What the client wants.
///
/// # Errors
/// 400 when it wants neither.
pub(super) fn transport(headers: &HeaderMap) -> Result<Transport, Refusal> {
    let wanted = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match wanted {
        _ if wanted.eq_ignore_ascii_case("websocket") => Ok(Transport::WebSocket),
        _ if wanted.eq_ignore_ascii_case(SPDY) => Ok(Transport::Spdy),
        "" => Err(bad("Upgrade request required")),
        other => {
            Err(bad(format!("unable to upgrade: WebSocket and {SPDY} are spoken here, {other:?} is not")))
        }
    }
}

/// Switches to WebSocket; `choose` takes one of the offered protocols.
///
/// # Errors
/// 400 when the request is malformed, or nothing that is offered is chosen.
pub(super) fn websocket<T>(
    mut request: Request,
    choose: impl FnOnce(&[String]) -> Option<(&'static str, T)>,
) -> Result<Switch<T>, Refusal> {
    let headers = request.headers();
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the request has no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("the Sec-WebSocket-Key is malformed"))?;
    let offered = listed(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let (name, chosen) = choose(&offered).ok_or_else(|| {
        bad(format!("unable to upgrade: none of the WebSocket protocols {offered:?} is known here"))
    })?;
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok(Switch { response, chosen, upgrade: hyper::upgrade::on(&mut request) })
}

/// Switches to SPDY/3.1; the first of `known` that the client offers is chosen.
///
/// # Errors
/// 400 and 403 as the kubelet.
pub(super) fn spdy<T: Copy>(mut request: Request, known: &[(&'static str, T)]) -> Result<Switch<T>, Refusal> {
    let offered = listed(request.headers(), &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(bad("unable to upgrade: X-Stream-Protocol-Version is required"));
    }
    let common = known.iter().find(|(name, _)| offered.iter().any(|offer| offer == name));
    let (name, chosen) = common.ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {names:?}"
        );
        Refusal(StatusCode::FORBIDDEN, text)
    })?;
    let mut response = switching(SPDY);
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok(Switch { response, chosen: *chosen, upgrade: hyper::upgrade::on(&mut request) })
}

fn switching(to: &'static str) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}

// === impl ===

impl<T> Switch<T> {
    /// The connection, once the client has the answer; `None` when it went away before.
    async fn connection(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
        match upgrade.await {
            Ok(upgraded) => Some(TokioIo::new(upgraded)),
            Err(error) => {
                tracing::debug!(%error, "a connection was not upgraded");
                None
            }
        }
    }

    /// Runs `session` on the WebSocket; the answer to the client.
    pub(super) fn run_websocket<F, S>(self, session: S) -> Response
    where
        T: Send + 'static,
        S: FnOnce(T, Socket) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let Switch { response, chosen, upgrade } = self;
        tokio::spawn(async move {
            if let Some(connection) = Self::connection(upgrade).await {
                let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
                session(chosen, socket).await;
            }
        });
        response
    }

    /// Runs `session` on the SPDY connection; the answer to the client.
    pub(super) fn run_spdy<F, S>(self, session: S) -> Response
    where
        T: Send + 'static,
        S: FnOnce(T, Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let Switch { response, chosen, upgrade } = self;
        tokio::spawn(async move {
            if let Some(connection) = Self::connection(upgrade).await {
                let (reader, writer) = tokio::io::split(connection);
                session(chosen, Connection::start(reader, writer)).await;
            }
        });
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn what_is_wanted() {
        let of =
            |value: &str| transport(request(&[("upgrade", value)]).headers()).map_err(|refusal| refusal.1);
        assert_eq!(of("websocket"), Ok(Transport::WebSocket));
        assert_eq!(of("WebSocket"), Ok(Transport::WebSocket));
        assert_eq!(of("SPDY/3.1"), Ok(Transport::Spdy));
        assert!(of("h2c").unwrap_err().contains("h2c"));
        assert_eq!(transport(&HeaderMap::new()).unwrap_err().1, "Upgrade request required");
    }

    #[test]
    fn spdy_takes_the_first_known_protocol() {
        let known = [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3)];
        let offers = |list: &[&str]| {
            let headers: Vec<_> = list.iter().map(|offer| ("X-Stream-Protocol-Version", *offer)).collect();
            spdy(request(&headers), &known)
        };
        // kubectl sends a header for each; others a list.
        for offer in [
            &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"][..],
            &["v3.channel.k8s.io, v4.channel.k8s.io"],
        ] {
            let switch = offers(offer).unwrap_or_else(|refusal| panic!("{refusal:?}"));
            assert_eq!(switch.chosen, 4);
            assert_eq!(switch.response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
            assert_eq!(switch.response.headers()["upgrade"], "SPDY/3.1");
        }
        let refusal = |list| offers(list).map(|switch| switch.chosen).unwrap_err();
        assert_eq!(refusal(&["x"]).0, StatusCode::FORBIDDEN);
        assert!(refusal(&["x"]).1.contains("unable to negotiate protocol"));
        assert_eq!(refusal(&[]).0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn websocket_answers_the_key() {
        let headers = [
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-protocol", "c"),
        ];
        let switch = websocket(request(&headers), |offered| {
            assert_eq!(offered, ["a", "b", "c"]);
            Some(("c", ()))
        });
        let response = switch.unwrap_or_else(|refusal| panic!("{refusal:?}")).response;
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "c");
        assert!(websocket(request(&headers[1..]), |_| Some(("c", ()))).is_err());
        assert!(websocket(request(&headers), |_| None::<(_, ())>).is_err());
    }
}
