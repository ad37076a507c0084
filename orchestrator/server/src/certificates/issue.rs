//! A certificate for a request. Subject, key and alternative names are taken from the request byte for byte, so that
//! a user of several groups keeps them all; usages and time are what the order says.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::der;
use super::request::{self, RequestError};

/// How long before now a certificate is good already, for clocks that differ.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// Usages of a key: the words of `spec.usages` and the bits of RFC 5280, 4.2.1.3.
const KEY_USAGES: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Further usages, with their identifiers.
const EXTENDED_USAGES: &[(&str, &[u32])] = &[
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A usage that is not known.
    #[error("{0:?} is not a usage of a certificate")]
    Usage(String),
    /// The authority's certificate or key is not usable for this.
    #[error("the certificate authority cannot sign: {0}")]
    Authority(&'static str),
}

/// What is to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The request, PEM.
    pub request: &'a [u8],
    /// `spec.usages`.
    pub usages: &'a [String],
    /// For how long, from now; never longer than the authority lasts.
    pub lasts: SignedDuration,
}

/// The certificate, PEM.
pub(crate) fn issue(
    order: &Order<'_>,
    (authority, key): (&CertificateDer<'_>, &KeyPair),
    now: Timestamp,
) -> Result<String, IssueError> {
    let broken = IssueError::Authority;
    let (_, authority) =
        X509Certificate::from_der(authority).map_err(|_| broken("its certificate is malformed"))?;
    let request_der = request::decode(order.request)?;
    let request = request::parse(&request_der)?;
    let info = &request.certification_request_info;
    let algorithm = algorithm(key).ok_or(broken("its key is of a kind that is not known"))?;
    let ends = Timestamp::from_second(authority.validity().not_after.timestamp())
        .map_err(|_| broken("its certificate has no end"))?;
    let until = now.checked_add(order.lasts).unwrap_or(ends).min(ends);
    let validity = der::sequence(&[&der::time(now - BACKDATE), &der::time(until)]);
    let names = request::alternative_names(&request).map(|names| names.value);
    let body = der::sequence(&[
        // Version 3.
        &der::value(0xa0, &der::integer(&[2])),
        &der::integer(&serial().ok_or(broken("there is no randomness"))?),
        &algorithm,
        authority.subject().as_raw(),
        &validity,
        info.subject.as_raw(),
        info.subject_pki.raw,
        &extensions(order.usages, (names, info.subject.as_raw()), key_identifier(&authority))?,
    ]);
    let signature = key.sign(&body).map_err(|_| broken("its key does not sign"))?;
    Ok(pem(&der::sequence(&[&body, &algorithm, &der::bits(&signature)])))
}

/// The AlgorithmIdentifier of signatures with a key.
fn algorithm(key: &KeyPair) -> Option<Vec<u8>> {
    let known: [(&rcgen::SignatureAlgorithm, &[u32]); 3] = [
        (&PKCS_ECDSA_P256_SHA256, &[1, 2, 840, 10045, 4, 3, 2]),
        (&PKCS_ECDSA_P384_SHA384, &[1, 2, 840, 10045, 4, 3, 3]),
        (&PKCS_ED25519, &[1, 3, 101, 112]),
    ];
    let found = known.iter().find(|(algorithm, _)| *algorithm == key.algorithm())?;
    Some(der::sequence(&[&der::oid(found.1)]))
}

fn serial() -> Option<[u8; 16]> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).ok()?;
    // Positive, and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    Some(serial)
}

fn key_identifier<'a>(authority: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    authority.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

/// `[3] SEQUENCE OF Extension`.
fn extensions(
    usages: &[String],
    (names, subject): (Option<&[u8]>, &[u8]),
    authority: Option<&[u8]>,
) -> Result<Vec<u8>, IssueError> {
    let (mut bits, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        let bit = KEY_USAGES.iter().find(|(word, _)| word == usage);
        let further = EXTENDED_USAGES.iter().find(|(word, _)| word == usage);
        match (bit, further) {
            (Some((_, bit)), _) => bits.push(*bit),
            (None, Some((_, oid))) => extended.push(der::oid(oid)),
            (None, None) => return Err(IssueError::Usage(usage.clone())),
        }
    }
    let mut found = Vec::new();
    if !bits.is_empty() {
        found.extend(extension(15, true, &der::named_bits(&bits)));
    }
    if !extended.is_empty() {
        extended.dedup();
        found.extend(extension(37, false, &der::value(0x30, &extended.concat())));
    }
    // No authority itself.
    found.extend(extension(19, true, &der::sequence(&[])));
    if let Some(identifier) = authority {
        found.extend(extension(35, false, &der::sequence(&[&der::value(0x80, identifier)])));
    }
    if let Some(names) = names {
        // Where there is no subject the names are what counts (RFC 5280, 4.2.1.6).
        found.extend(extension(17, subject == der::sequence(&[]), names));
    }
    Ok(der::value(0xa3, &der::value(0x30, &found)))
}

/// One extension of the family 2.5.29.
fn extension(number: u32, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::value(0x01, &[0xff]) } else { Vec::new() };
    der::sequence(&[&der::oid(&[2, 5, 29, number]), &critical, &der::value(0x04, value)])
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, SanType};
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::UserInfo;
    use crate::pki::Pki;

    fn order<'a>(request: &'a str, usages: &'a [String], hours: i64) -> Order<'a> {
        Order { request: request.as_bytes(), usages, lasts: SignedDuration::from_hours(hours) }
    }

    #[test]
    fn a_certificate_that_the_server_itself_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(dir.path(), now).unwrap();
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "one");
        // A second organization: the library has room for one of each kind.
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "two");
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
        let key = KeyPair::generate().unwrap();
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let usages =
            ["digital signature", "key encipherment", "client auth", "server auth"].map(str::to_owned);
        let made = pki.sign(&order(&request, &usages, 1), now).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.as_bytes()).unwrap();

        let user = UserInfo::from_certificate(&certificate).unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["one", "two", "system:authenticated"]);
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let ca = pki.ca_der().unwrap();
        let (_, authority) = X509Certificate::from_der(&ca).unwrap();
        parsed.verify_signature(Some(authority.public_key())).unwrap();
        let lasts = parsed.validity().not_after.timestamp() - now.as_second();
        assert!((3599..=3600).contains(&lasts), "{lasts}");
        assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());

        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let time = rustls::pki_types::UnixTime::now();
        verifier.verify_client_cert(&certificate, &[], time).unwrap();
    }

    #[test]
    fn no_longer_than_the_authority_and_only_known_usages() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(dir.path(), now).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let usages = ["client auth".to_owned()];
        let made = pki.sign(&order(&request, &usages, 24 * 365 * 50), now).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let ca = pki.ca_der().unwrap();
        let (_, authority) = X509Certificate::from_der(&ca).unwrap();
        assert_eq!(parsed.validity().not_after, authority.validity().not_after);
        let usages = ["flying".to_owned()];
        assert_eq!(pki.sign(&order(&request, &usages, 1), now), Err(IssueError::Usage("flying".into())));
    }
}
