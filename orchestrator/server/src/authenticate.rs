//! Who is asking: a client certificate, a bearer token, or an identity that an in-process caller brings
//! along. Nobody is anonymous but for health and version.

use std::collections::{BTreeMap, HashMap};

use http::{Extensions, HeaderMap, header};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use catamaran_api::status::Status;
use catamaran_store::Store;

use crate::encode;
use crate::token::{self, Claims, Tokens};

/// The group of everybody with valid credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// A user, as authorization, admission and reviews see it. In-process clients put one into the extensions
/// of their `http::Request`; requests from the network cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Groups, in order.
    pub groups: Vec<String>,
    /// Uid, for service accounts.
    pub uid: Option<String>,
    /// More, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in `groups`, and in `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// A part of the control plane (`system:NAME`) with all rights of one.
    pub fn component(name: &str) -> Self {
        UserInfo::new(name, &[MASTERS])
    }

    /// The server itself.
    pub fn server() -> Self {
        UserInfo::new("system:apiserver", &[MASTERS])
    }

    /// Nobody: only health and version answer.
    pub fn anonymous() -> Self {
        UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..UserInfo::default()
        }
    }

    /// Common name and organizations of a verified client certificate; `None` when it has no common name.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups: Vec<&str> =
            subject.iter_organization().filter_map(|organization| organization.as_str().ok()).collect();
        Some(UserInfo::new(name, &groups))
    }

    /// Whether the user is a member of `group`.
    pub fn member_of(&self, group: &str) -> bool {
        self.groups.iter().any(|mine| mine == group)
    }
}

/// The identity that a TLS connection proved, put into the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionUser(pub(crate) Option<UserInfo>);

/// Bearer tokens given at start-up. Only digests are kept, so that look-ups take no time that depends on a secret.
#[derive(Default)]
pub struct StaticTokens(HashMap<[u8; 32], UserInfo>);

impl StaticTokens {
    /// From pairs of token and user.
    pub fn new(tokens: impl IntoIterator<Item = (String, UserInfo)>) -> Self {
        StaticTokens(tokens.into_iter().map(|(token, user)| (digest(&token), user)).collect())
    }

    pub(crate) fn find(&self, token: &str) -> Option<&UserInfo> {
        self.0.get(&digest(token))
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Finds out who sent a request. `now` is in seconds since 1970.
///
/// # Errors
/// 401 when a token is given that is not valid.
pub(crate) async fn authenticate(
    extensions: &Extensions,
    headers: &HeaderMap,
    (statics, tokens): (&StaticTokens, &Tokens),
    store: &dyn Store,
    now: i64,
) -> Result<UserInfo, Status> {
    if let Some(user) = extensions.get::<UserInfo>() {
        return Ok(user.clone());
    }
    if let Some(ConnectionUser(Some(user))) = extensions.get::<ConnectionUser>() {
        return Ok(user.clone());
    }
    let Some(token) = bearer(headers) else { return Ok(UserInfo::anonymous()) };
    if let Some(user) = statics.find(token) {
        return Ok(user.clone());
    }
    let audiences = [token::ISSUER.to_owned()];
    let claims = tokens.verify(token, now, &audiences).map_err(|_| Status::unauthorized("Unauthorized"))?;
    if !alive(&claims, store).await {
        return Err(Status::unauthorized("Unauthorized"));
    }
    Ok(service_account(&claims))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The user that a service-account token stands for.
pub(crate) fn service_account(claims: &Claims) -> UserInfo {
    let bound = &claims.bound;
    let mut extra = BTreeMap::new();
    let mut say = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    say("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        say("pod-name", &pod.name);
        say("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        say("node-name", &node.name);
        say("node-uid", &node.uid);
    }
    UserInfo {
        name: claims.sub.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            AUTHENTICATED.to_owned(),
        ],
        uid: Some(bound.serviceaccount.uid.clone()),
        extra,
    }
}

/// Whether account, pod and secret that the token names still exist with the same uids.
pub(crate) async fn alive(claims: &Claims, store: &dyn Store) -> bool {
    let bound = &claims.bound;
    let named = [
        ("serviceaccounts", Some(&bound.serviceaccount)),
        ("pods", bound.pod.as_ref()),
        ("secrets", bound.secret.as_ref()),
    ];
    for (plural, reference) in named {
        let Some(reference) = reference else { continue };
        let key = format!("/registry/core/{plural}/{}/{}", bound.namespace, reference.name);
        let uid = match store.get(&key).await {
            Ok(Some(entry)) => encode::uid(&entry.value),
            _ => None,
        };
        if uid.as_deref() != Some(reference.uid.as_str()) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use catamaran_store::{Expect, MemoryStore};

    use super::*;
    use crate::token::{Bound, ISSUER, Reference};

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.into()],
            exp: 2000,
            iat: 1000,
            iss: ISSUER.into(),
            jti: "j".into(),
            bound: Bound {
                namespace: "ns".into(),
                serviceaccount: Reference { name: "sa".into(), uid: "u1".into() },
                pod: None,
                secret: None,
                node: None,
            },
            nbf: 1000,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    #[tokio::test]
    async fn tokens() {
        let tokens = crate::token::tests::tokens();
        let statics = StaticTokens::new([("secret".to_owned(), UserInfo::new("boot", &["g"]))]);
        let store = MemoryStore::new();
        let none = Extensions::new();
        let check =
            async |value: &str| authenticate(&none, &headers(value), (&statics, &tokens), &store, 1500).await;
        assert_eq!(check("Bearer secret").await.unwrap().name, "boot");
        assert_eq!(check("bearer secret").await.unwrap().groups, ["g", AUTHENTICATED]);
        assert_eq!(check("Bearer other").await.unwrap_err().code, 401);
        assert_eq!(check("Basic abc").await.unwrap(), UserInfo::anonymous());

        let jwt = format!("Bearer {}", tokens.sign(&claims()).unwrap());
        assert_eq!(check(&jwt).await.unwrap_err().code, 401, "the account does not exist");
        let account = Bytes::from_static(br#"{"metadata":{"name":"sa","uid":"u1"}}"#);
        store.put("/registry/core/serviceaccounts/ns/sa", account, Expect::Any).await.unwrap();
        let user = check(&jwt).await.unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert!(user.member_of("system:serviceaccounts:ns"));
        let recreated = Bytes::from_static(br#"{"metadata":{"name":"sa","uid":"u2"}}"#);
        store.put("/registry/core/serviceaccounts/ns/sa", recreated, Expect::Any).await.unwrap();
        assert_eq!(check(&jwt).await.unwrap_err().code, 401, "another account of the same name");
    }
}
