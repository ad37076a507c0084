//! One key: values are sealed with AES-GCM or as a secretbox, in the form in which Kubernetes keeps them in etcd:
//! `k8s:enc:PROVIDER:v1:KEY:` and then nonce and ciphertext.

use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// What every sealed value begins with.
pub(super) const SEALED: &[u8] = b"k8s:enc:";
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// Why a value cannot be sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum CipherError {
    /// The key is not one for this provider.
    #[error("a key for {provider} has {wanted} bytes, this one has {found}")]
    Length {
        /// Its name.
        provider: &'static str,
        /// What it takes.
        wanted: &'static str,
        /// What was given.
        found: usize,
    },
    /// No randomness, or more than can be sealed at once.
    #[error("the value cannot be encrypted")]
    Seal,
    /// The value is damaged, belongs to another object, or was sealed with another key of that name.
    #[error("the stored value of {key} is damaged, or was encrypted with another key of that name")]
    Open {
        /// The object.
        key: String,
    },
    /// It was sealed with a key that is not there.
    #[error(
        "the stored value of {key} is encrypted with a key that the encryption configuration does not have: {prefix}"
    )]
    NoKey {
        /// The object.
        key: String,
        /// Provider and name of the key.
        prefix: String,
    },
    /// It is not sealed, and the configuration does not say that this may be.
    #[error(
        "the stored value of {key} is not encrypted, and the encryption configuration has no identity provider for it"
    )]
    Plain {
        /// The object.
        key: String,
    },
}

enum Cipher {
    AesGcm(Box<LessSafeKey>),
    Secretbox(Box<XSalsa20Poly1305>),
}

/// A named key.
pub(super) struct Key {
    prefix: Vec<u8>,
    cipher: Cipher,
    random: SystemRandom,
}

impl Key {
    /// For AES-GCM: 16 or 32 bytes.
    pub(super) fn aes_gcm(name: &str, secret: &[u8]) -> Result<Self, CipherError> {
        let wrong = || CipherError::Length { provider: "aesgcm", wanted: "16 or 32", found: secret.len() };
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return Err(wrong()),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| wrong())?;
        Ok(Key::new("aesgcm", name, Cipher::AesGcm(Box::new(LessSafeKey::new(key)))))
    }

    /// For a secretbox (XSalsa20 and Poly1305): 32 bytes.
    pub(super) fn secretbox(name: &str, secret: &[u8]) -> Result<Self, CipherError> {
        let cipher = XSalsa20Poly1305::new_from_slice(secret).map_err(|_| CipherError::Length {
            provider: "secretbox",
            wanted: "32",
            found: secret.len(),
        })?;
        Ok(Key::new("secretbox", name, Cipher::Secretbox(Box::new(cipher))))
    }

    fn new(provider: &str, name: &str, cipher: Cipher) -> Self {
        let prefix = [SEALED, format!("{provider}:v1:{name}:").as_bytes()].concat();
        Key { prefix, cipher, random: SystemRandom::new() }
    }

    /// Whether a value was sealed by this provider with a key of this name.
    pub(super) fn made(&self, stored: &[u8]) -> bool {
        stored.starts_with(&self.prefix)
    }

    /// Seals the value of an object; it can be opened as that object's only, where the provider can tell.
    pub(super) fn seal(&self, object: &str, plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let mut out = self.prefix.clone();
        let at = out.len();
        out.resize(at + self.nonce_length(), 0);
        self.random.fill(&mut out[at..]).map_err(|_| CipherError::Seal)?;
        match &self.cipher {
            Cipher::AesGcm(key) => {
                let nonce = Nonce::try_assume_unique_for_key(&out[at..]).map_err(|_| CipherError::Seal)?;
                let mut sealed = plain.to_vec();
                key.seal_in_place_append_tag(nonce, Aad::from(object.as_bytes()), &mut sealed)
                    .map_err(|_| CipherError::Seal)?;
                out.extend_from_slice(&sealed);
            }
            Cipher::Secretbox(cipher) => {
                let nonce = crypto_secretbox::Nonce::from_slice(&out[at..]);
                let sealed = cipher.encrypt(nonce, plain).map_err(|_| CipherError::Seal)?;
                out.extend_from_slice(&sealed);
            }
        }
        Ok(out)
    }

    /// Opens what [`Key::seal`] sealed for the same object.
    pub(super) fn open(&self, object: &str, stored: &[u8]) -> Result<Vec<u8>, CipherError> {
        let damaged = || CipherError::Open { key: object.to_owned() };
        let rest = stored.strip_prefix(self.prefix.as_slice()).ok_or_else(damaged)?;
        let (nonce, sealed) = rest.split_at_checked(self.nonce_length()).ok_or_else(damaged)?;
        match &self.cipher {
            Cipher::AesGcm(key) => {
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
                let mut plain = sealed.to_vec();
                let length = key
                    .open_in_place(nonce, Aad::from(object.as_bytes()), &mut plain)
                    .map_err(|_| damaged())?
                    .len();
                plain.truncate(length);
                Ok(plain)
            }
            Cipher::Secretbox(cipher) => {
                cipher.decrypt(crypto_secretbox::Nonce::from_slice(nonce), sealed).map_err(|_| damaged())
            }
        }
    }

    fn nonce_length(&self) -> usize {
        match self.cipher {
            Cipher::AesGcm(_) => GCM_NONCE,
            Cipher::Secretbox(_) => BOX_NONCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_opened_by_the_same_key_only() {
        let keys = [
            Key::aes_gcm("a", &[1; 32]).unwrap(),
            Key::aes_gcm("b", &[2; 16]).unwrap(),
            Key::secretbox("c", &[3; 32]).unwrap(),
        ];
        for key in &keys {
            let sealed = key.seal("/registry/core/secrets/d/s", b"{\"a\":1}").unwrap();
            assert!(sealed.starts_with(SEALED) && key.made(&sealed));
            assert!(!sealed.windows(3).any(|window| window == b"\"a\""));
            assert_eq!(key.open("/registry/core/secrets/d/s", &sealed).unwrap(), b"{\"a\":1}");
            assert_ne!(key.seal("/x", b"1").unwrap(), key.seal("/x", b"1").unwrap(), "nonces differ");
            let mut damaged = sealed.clone();
            *damaged.last_mut().unwrap() ^= 1;
            assert!(key.open("/registry/core/secrets/d/s", &damaged).is_err());
            assert!(key.open("/registry/core/secrets/d/s", &sealed[..sealed.len().min(20)]).is_err());
            for other in keys.iter().filter(|other| !other.made(&sealed)) {
                assert!(other.open("/registry/core/secrets/d/s", &sealed).is_err());
            }
        }
        let sealed = keys[0].seal("/registry/core/secrets/d/s", b"x").unwrap();
        assert!(keys[0].open("/registry/core/secrets/d/t", &sealed).is_err(), "another object's");
        let namesake = Key::secretbox("c", &[4; 32]).unwrap();
        let sealed = keys[2].seal("/x", b"x").unwrap();
        assert_eq!(namesake.open("/x", &sealed), Err(CipherError::Open { key: "/x".into() }));
    }

    #[test]
    fn lengths() {
        assert!(Key::aes_gcm("a", &[0; 24]).is_err());
        assert!(Key::secretbox("a", &[0; 16]).is_err());
    }

    /// The box of NaCl's own test vector, which every implementation makes: what was written by another server
    /// can be read.
    #[test]
    fn a_secretbox_is_that_of_nacl() {
        let key = [
            0x1b, 0x27, 0x55, 0x64, 0x73, 0xe9, 0x85, 0xd4, 0x62, 0xcd, 0x51, 0x19, 0x7a, 0x9a, 0x46, 0xc7,
            0x60, 0x09, 0x54, 0x9e, 0xac, 0x64, 0x74, 0xf2, 0x06, 0xc4, 0xee, 0x08, 0x44, 0xf6, 0x83, 0x89,
        ];
        let nonce = [
            0x69, 0x69, 0x6e, 0xe9, 0x55, 0xb6, 0x2b, 0x73, 0xcd, 0x62, 0xbd, 0xa8, 0x75, 0xfc, 0x73, 0xd6,
            0x82, 0x19, 0xe0, 0x03, 0x6b, 0x7a, 0x0b, 0x37,
        ];
        let cipher = XSalsa20Poly1305::new_from_slice(&key).unwrap();
        let sealed =
            cipher.encrypt(crypto_secretbox::Nonce::from_slice(&nonce), [0xbe_u8, 0x07].as_slice()).unwrap();
        assert_eq!(sealed.len(), 18, "the tag comes first and is of 16 bytes");
        let key = Key::secretbox("k", &key).unwrap();
        let stored = [b"k8s:enc:secretbox:v1:k:".as_slice(), &nonce, &sealed].concat();
        assert_eq!(key.open("/any", &stored).unwrap(), [0xbe, 0x07]);
    }
}
