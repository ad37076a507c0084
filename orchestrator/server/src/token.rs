//! Service-account tokens: JWTs signed with ES256, the claims of Kubernetes' bound tokens.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who issues the tokens, and their default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who issues the tokens that are kept in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Why a token is refused or could not be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// The key file holds no P-256 key.
    #[error("the service-account key is not a P-256 key")]
    Key,
    /// Signing failed.
    #[error("the token could not be signed")]
    Sign,
    /// Not a JWT.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by somebody else.
    #[error("the token's signature does not match")]
    Signature,
    /// Issued by somebody else.
    #[error("the token has another issuer")]
    Issuer,
    /// Meant for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Too old or too young.
    #[error("the token has expired or is not yet valid")]
    Time,
}

/// A named object with its uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// The private claims under `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod that the token dies with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Reference>,
    /// The secret that the token dies with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Reference>,
    /// The node of the pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Reference>,
}

/// What a token says. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// Ends.
    pub exp: i64,
    /// Issued.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Unique id of the token.
    pub jti: String,
    /// Account and what the token is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Begins.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// What a token says that is kept in a Secret: it has no end but that of the Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// Always [`LEGACY_ISSUER`].
    pub iss: String,
    /// Namespace of the account and the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret that has the token.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// Name of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// Uid of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// Signs and verifies.
pub struct Tokens {
    key: EcdsaKeyPair,
    public: Vec<u8>,
    id: String,
    random: SystemRandom,
}

impl Tokens {
    /// From a PKCS #8 P-256 key.
    ///
    /// # Errors
    /// When it is another kind of key.
    pub fn new(pkcs8: &[u8]) -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|_| TokenError::Key)?;
        let public = key.public_key().as_ref().to_vec();
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&public));
        Ok(Tokens { key, public, id, random })
    }

    /// The signed form of `claims`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        self.sign_any(claims)
    }

    /// The signed form of a token for a Secret.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign_legacy(&self, claims: &Legacy) -> Result<String, TokenError> {
        self.sign_any(claims)
    }

    fn sign_any(&self, claims: &impl Serialize) -> Result<String, TokenError> {
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let claims = serde_json::to_vec(claims).map_err(|_| TokenError::Sign)?;
        let body = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header.to_string()),
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.key.sign(&self.random, body.as_bytes()).map_err(|_| TokenError::Sign)?;
        Ok(format!("{body}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that is ours, in time (`now` in seconds), and for one of `audiences`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, token: &str, now: i64, audiences: &[String]) -> Result<Claims, TokenError> {
        let payload = self.payload(token)?;
        let issuer: Issuer = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
        if issuer.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
        // A minute of grace on the beginning, for clocks that differ.
        if claims.exp <= now || claims.nbf > now + 60 {
            return Err(TokenError::Time);
        }
        if !claims.aud.iter().any(|audience| audiences.contains(audience)) {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }

    /// The claims of a token for a Secret that is ours.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify_legacy(&self, token: &str) -> Result<Legacy, TokenError> {
        let claims: Legacy =
            serde_json::from_slice(&self.payload(token)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss == LEGACY_ISSUER { Ok(claims) } else { Err(TokenError::Issuer) }
    }

    /// What a token that we signed says.
    fn payload(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        let (body, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = body.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(body.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        decode(claims)
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 0x04, 32 bytes x, 32 bytes y.
        let coordinate = |range: std::ops::Range<usize>| {
            BASE64_URL_SAFE_NO_PAD.encode(self.public.get(range).unwrap_or_default())
        };
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tokens() -> Tokens {
        Tokens::new(&rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.into()],
            exp: 2000,
            iat: 1000,
            iss: ISSUER.into(),
            jti: "1".into(),
            bound: Bound {
                namespace: "ns".into(),
                serviceaccount: Reference { name: "sa".into(), uid: "u".into() },
                pod: None,
                secret: None,
                node: None,
            },
            nbf: 1000,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    #[test]
    fn round_trip_and_refusals() {
        let tokens = tokens();
        let audience = [ISSUER.to_owned()];
        let token = tokens.sign(&claims()).unwrap();
        assert_eq!(tokens.verify(&token, 1500, &audience), Ok(claims()));
        assert_eq!(tokens.verify(&token, 2000, &audience), Err(TokenError::Time));
        assert_eq!(tokens.verify(&token, 900, &audience), Err(TokenError::Time));
        assert_eq!(tokens.verify(&token, 1500, &["vault".into()]), Err(TokenError::Audience));
        assert_eq!(self::tokens().verify(&token, 1500, &audience), Err(TokenError::Signature));
        assert_eq!(tokens.verify("a.b", 1500, &audience), Err(TokenError::Malformed));

        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged = serde_json::to_vec(&Claims { sub: "system:admin".into(), ..claims() }).unwrap();
        let forged = format!("{head}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(forged));
        assert_eq!(tokens.verify(&forged, 1500, &audience), Err(TokenError::Signature));
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(tokens.verify(&format!("{none}.{rest}"), 1500, &audience), Err(TokenError::Signature));
    }

    #[test]
    fn key_set_has_both_coordinates() {
        let set = tokens().key_set();
        for coordinate in ["x", "y"] {
            let text = set["keys"][0][coordinate].as_str().unwrap();
            assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(text).unwrap().len(), 32);
        }
    }
}
