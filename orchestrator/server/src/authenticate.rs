//! Who is asking: a client certificate, a bearer token, or an identity that an in-process caller brings
//! along. Nobody is anonymous but for health and version.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Extensions, HeaderMap, header};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use catamaran_api::status::Status;
use catamaran_store::Store;

use crate::core::Core;
use crate::encode;
use crate::token::{self, Claims, Legacy, TokenError, Tokens};

mod bootstrap;

/// Seconds for which a token is still good after what it is bound to was to be gone: a pod may need it for its end.
const LEEWAY: i64 = 60;

/// The group of everybody with valid credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// Of the extra that tells which credential somebody used.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

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
        let digest: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
        let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")])].into();
        Some(UserInfo { extra, ..UserInfo::new(name, &groups) })
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

/// What credentials are checked against.
#[derive(Clone, Copy)]
pub(crate) struct Checks<'a> {
    pub(crate) statics: &'a StaticTokens,
    pub(crate) tokens: &'a Tokens,
    pub(crate) store: &'a dyn Store,
}

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) user: UserInfo,
    /// Which of the audiences asked for it is good for.
    pub(crate) audiences: Vec<String>,
}

/// Why a token is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BearerError {
    /// It is not ours, not in time, or for somebody else.
    #[error("invalid bearer token: {0}")]
    Token(#[from] TokenError),
    /// What it is bound to is gone.
    #[error("invalid bearer token: the {0} that it is bound to is gone")]
    Gone(&'static str),
    /// No such token.
    #[error("invalid bearer token")]
    Unknown,
    /// For others than those who ask.
    #[error("the token is not for any of the audiences {0:?}")]
    Audience(Vec<String>),
}

/// Finds out who sent a request.
///
/// # Errors
/// 401 when a token is given that is not valid.
pub(crate) async fn authenticate(
    core: &Core,
    extensions: &Extensions,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<UserInfo, Status> {
    authenticate_with(core.checks(), extensions, headers, now).await
}

async fn authenticate_with(
    checks: Checks<'_>,
    extensions: &Extensions,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<UserInfo, Status> {
    if let Some(user) = extensions.get::<UserInfo>() {
        return Ok(user.clone());
    }
    if let Some(ConnectionUser(Some(user))) = extensions.get::<ConnectionUser>() {
        return Ok(user.clone());
    }
    let Some(token) = bearer(headers) else { return Ok(UserInfo::anonymous()) };
    match checks.bearer(token, now, &[token::ISSUER.to_owned()]).await {
        Ok(bearer) => Ok(bearer.user),
        Err(error) => {
            tracing::debug!(%error, "a token is refused");
            Err(Status::unauthorized("Unauthorized"))
        }
    }
}

impl Checks<'_> {
    /// Whom a token stands for, for one of `audiences`. Tokens without an audience are for the API itself.
    ///
    /// # Errors
    /// When the token is not good.
    pub(crate) async fn bearer(
        &self,
        token: &str,
        now: Timestamp,
        audiences: &[String],
    ) -> Result<Bearer, BearerError> {
        let for_the_api = |user: UserInfo| match audiences.iter().any(|audience| audience == token::ISSUER) {
            true => Ok(Bearer { user, audiences: vec![token::ISSUER.to_owned()] }),
            false => Err(BearerError::Audience(audiences.to_vec())),
        };
        if let Some(user) = self.statics.find(token) {
            return for_the_api(user.clone());
        }
        if let Some(parts) = bootstrap::parse(token) {
            let user = bootstrap::find(self.store, parts, now).await.ok_or(BearerError::Unknown)?;
            return for_the_api(user);
        }
        match self.tokens.verify(token, now.as_second(), audiences) {
            Ok(claims) => {
                self.alive(&claims, now).await?;
                let audiences =
                    audiences.iter().filter(|asked| claims.aud.contains(asked)).cloned().collect();
                Ok(Bearer { user: service_account(&claims), audiences })
            }
            Err(TokenError::Issuer) => {
                let claims = self.tokens.verify_legacy(token)?;
                for_the_api(self.legacy(&claims, token, now).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Account, pod, secret and node that the token names must be there with the same uids.
    async fn alive(&self, claims: &Claims, now: Timestamp) -> Result<(), BearerError> {
        let bound = &claims.bound;
        // The node of a pod is only told; a token that is bound to a node itself ends with it.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        let named = [
            ("serviceaccount", "serviceaccounts", Some(&bound.serviceaccount)),
            ("pod", "pods", bound.pod.as_ref()),
            ("secret", "secrets", bound.secret.as_ref()),
            ("node", "nodes", node),
        ];
        for (word, plural, reference) in named {
            let Some(reference) = reference else { continue };
            let key = match plural {
                "nodes" => format!("/registry/core/nodes/{}", reference.name),
                _ => format!("/registry/core/{plural}/{}/{}", bound.namespace, reference.name),
            };
            if !self.is_there(&key, &reference.uid, now).await {
                return Err(BearerError::Gone(word));
            }
        }
        Ok(())
    }

    async fn is_there(&self, key: &str, uid: &str, now: Timestamp) -> bool {
        let Ok(Some(entry)) = self.store.get(key).await else { return false };
        let Some((found, deletion)) = encode::uid_and_deletion(&entry.value) else { return false };
        let over = deletion.is_some_and(|end| now.as_second() > end.as_second() + LEEWAY);
        found == uid && !over
    }

    /// A token kept in a Secret is good as long as the Secret has it.
    async fn legacy(&self, claims: &Legacy, token: &str, now: Timestamp) -> Result<UserInfo, BearerError> {
        let Legacy { namespace, secret, account, uid, .. } = claims;
        if !self.is_there(&format!("/registry/core/serviceaccounts/{namespace}/{account}"), uid, now).await {
            return Err(BearerError::Gone("serviceaccount"));
        }
        let found = self.store.get(&format!("/registry/core/secrets/{namespace}/{secret}")).await;
        let entry = found.ok().flatten().ok_or(BearerError::Gone("secret"))?;
        let object =
            encode::decode(&entry.value, entry.mod_revision).map_err(|_| BearerError::Gone("secret"))?;
        let kept = object["data"]["token"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        if kept.as_deref() != Some(token.as_bytes()) {
            return Err(BearerError::Gone("secret"));
        }
        Ok(UserInfo { uid: Some(uid.clone()), ..account_user(namespace, account) })
    }
}

/// A service account with its groups.
fn account_user(namespace: &str, account: &str) -> UserInfo {
    let all = format!("system:serviceaccounts:{namespace}");
    UserInfo::new(format!("system:serviceaccount:{namespace}:{account}"), &["system:serviceaccounts", &all])
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The user that a service-account token stands for.
fn service_account(claims: &Claims) -> UserInfo {
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
    let user = account_user(&bound.namespace, &bound.serviceaccount.name);
    UserInfo { uid: Some(bound.serviceaccount.uid.clone()), extra, ..user }
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
        let now = Timestamp::from_second(1500).unwrap();
        let checks = Checks { statics: &statics, tokens: &tokens, store: &store };
        let check = async |value: &str| authenticate_with(checks, &none, &headers(value), now).await;
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
        let leaving =
            |end: &str| Bytes::from(format!(r#"{{"metadata":{{"uid":"u1","deletionTimestamp":"{end}"}}}}"#));
        for (end, good) in [("1970-01-01T00:24:30Z", true), ("1970-01-01T00:23:00Z", false)] {
            store.put("/registry/core/serviceaccounts/ns/sa", leaving(end), Expect::Any).await.unwrap();
            assert_eq!(check(&jwt).await.is_ok(), good, "{end} is as seen from 1970-01-01T00:25:00Z");
        }
    }

    #[tokio::test]
    async fn what_a_token_is_bound_to() {
        let tokens = crate::token::tests::tokens();
        let store = MemoryStore::new();
        let checks = Checks { statics: &StaticTokens::default(), tokens: &tokens, store: &store };
        let now = Timestamp::from_second(1500).unwrap();
        let put = async |key: &str, uid: &str| {
            let object = Bytes::from(format!(r#"{{"metadata":{{"uid":"{uid}"}}}}"#));
            store.put(&format!("/registry/core/{key}"), object, Expect::Any).await.unwrap();
        };
        put("serviceaccounts/ns/sa", "u1").await;
        let reference = |name: &str| Some(Reference { name: name.into(), uid: format!("{name}-uid") });
        let plain = claims().bound;
        let (pod, secret, node) = (reference("p"), reference("s"), reference("n"));
        let bounds = [
            (Bound { pod: pod.clone(), node: node.clone(), ..plain.clone() }, "pods/ns/p", "p-uid", "pod"),
            (Bound { secret, ..plain.clone() }, "secrets/ns/s", "s-uid", "secret"),
            (Bound { node, ..plain }, "nodes/n", "n-uid", "node"),
        ];
        for (bound, key, uid, word) in bounds {
            let token = tokens.sign(&Claims { bound, ..claims() }).unwrap();
            let check = async || checks.bearer(&token, now, &[ISSUER.to_owned()]).await;
            assert_eq!(check().await, Err(BearerError::Gone(word)));
            put(key, "another").await;
            assert_eq!(check().await, Err(BearerError::Gone(word)));
            put(key, uid).await;
            assert!(check().await.is_ok(), "{word}");
            let other = checks.bearer(&token, now, &["other".to_owned()]).await;
            assert_eq!(other, Err(BearerError::Token(TokenError::Audience)));
        }
    }
}
