//! The cluster's certificate authority: made at first start, kept under `server/pki`, issues the server's
//! certificate, the administrator's and one per component or node. Certificates near their end are renewed.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::certificates::{self, IssueError, Order};

/// Days that a certificate of the authority itself lasts.
const CA_DAYS: i64 = 3650;
/// Days that an issued certificate lasts.
const LEAF_DAYS: i64 = 365;
/// A certificate with fewer days left is issued anew.
const RENEW_DAYS: i64 = 30;

/// Why the authority could not do something.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("could not {action} {path}")]
    File {
        /// `read`, `write` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate or key could not be made.
    #[error("could not issue the certificate for {subject}")]
    Issue {
        /// Common name.
        subject: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// A file does not hold what its name says.
    #[error("{path} holds no usable {what}; remove it to have a new one made, or restore it")]
    Broken {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// The certificate authority is past its end.
    #[error("the certificate authority {path} has expired; remove the folder to start with a new one")]
    Expired {
        /// The file.
        path: PathBuf,
    },
}

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Serving TLS.
    Server,
    /// Identifying a client.
    Client,
    /// Both, for agents.
    Both,
}

/// Who a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name: the user name.
    pub user: String,
    /// Organization: the group.
    pub group: Option<String>,
    /// Host names for a serving certificate.
    pub names: Vec<String>,
    /// Addresses for a serving certificate.
    pub addresses: Vec<IpAddr>,
    /// What it may be used for.
    pub usage: Usage,
}

impl Subject {
    /// A client that is a member of `group`.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Subject {
            user: user.to_owned(),
            group: group.map(str::to_owned),
            names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// A node's agent: client of the API and server on port 10250.
    pub fn node(name: &str, addresses: Vec<IpAddr>) -> Self {
        Subject {
            user: format!("system:node:{name}"),
            group: Some("system:nodes".to_owned()),
            names: vec![name.to_owned(), "localhost".to_owned()],
            addresses,
            usage: Usage::Both,
        }
    }

    /// A server reached under these names and addresses.
    pub fn server(user: &str, names: Vec<String>, addresses: Vec<IpAddr>) -> Self {
        Subject { user: user.to_owned(), group: None, names, addresses, usage: Usage::Server }
    }
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Credentials {
    /// Certificate.
    pub certificate: String,
    /// Private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The certificate as rustls wants it, or `None` when the text is not one.
    pub fn certificate_der(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()
    }

    /// The key as rustls wants it, or `None` when the text is not one.
    pub fn key_der(&self) -> Option<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()
    }
}

/// The certificate authority and the folder it lives in.
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    now: Timestamp,
}

impl Pki {
    /// Opens the authority in `dir`, making folder, key and certificate where there are none.
    ///
    /// # Errors
    /// When files cannot be read or written, or do not hold what they should.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        fs::create_dir_all(dir).map_err(|source| PkiError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca, key) = match (read(&certificate)?, read(&key)?) {
            (Some(ca), Some(pem)) => {
                let key = KeyPair::from_pem(&pem)
                    .map_err(|_| PkiError::Broken { path: key.clone(), what: "private key" })?;
                if days_left(&ca, now).ok_or_else(|| broken(&certificate))? <= 0 {
                    return Err(PkiError::Expired { path: certificate });
                }
                (ca, key)
            }
            _ => create_authority(&certificate, &key, now)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(|_| broken(&certificate))?;
        Ok(Pki { dir: dir.to_owned(), issuer, ca, now })
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// The authority's certificate as rustls wants it.
    ///
    /// # Errors
    /// When the file is not a certificate.
    pub fn ca_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(|_| broken(&self.dir.join("ca.crt")))
    }

    /// `FILE.crt` and `FILE.key` in the authority's folder for `subject`; issued anew when absent, near
    /// the end, or made for another subject.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn credentials(&self, file: &str, subject: &Subject) -> Result<Credentials, PkiError> {
        self.credentials_in(&self.dir, file, subject)
    }

    /// The same in another folder, such as the agent's.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn credentials_in(&self, dir: &Path, file: &str, subject: &Subject) -> Result<Credentials, PkiError> {
        fs::create_dir_all(dir).map_err(|source| PkiError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let (certificate, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        if let (Some(pem), Some(key)) = (read(&certificate)?, read(&key)?)
            && still_good(&pem, subject, &self.ca, self.now)
        {
            return Ok(Credentials { certificate: pem, key });
        }
        let made = self.issue(subject)?;
        write_private(&key, made.key.as_bytes())?;
        write_private(&certificate, made.certificate.as_bytes())?;
        Ok(made)
    }

    /// A new certificate that is not kept.
    ///
    /// # Errors
    /// When the library cannot make a key or a certificate.
    pub fn issue(&self, subject: &Subject) -> Result<Credentials, PkiError> {
        let failed = |source| PkiError::Issue { subject: subject.user.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(subject.names.clone()).map_err(failed)?;
        params.subject_alt_names.extend(subject.addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name = name(&subject.user, subject.group.as_deref());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        if subject.usage != Usage::Client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.usage != Usage::Server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        set_validity(&mut params, self.now, LEAF_DAYS);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Credentials { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for somebody's request, PEM.
    ///
    /// # Errors
    /// When the request or a usage is not usable.
    pub fn sign(&self, order: &Order<'_>, now: Timestamp) -> Result<String, IssueError> {
        let ca = self.ca_der().map_err(|_| IssueError::Authority("its certificate is malformed"))?;
        certificates::issue(order, (&ca, self.issuer.key()), now)
    }

    /// The key that signs service-account tokens (P-256, PKCS #8 DER), made at first use.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn service_account_key(&self) -> Result<Vec<u8>, PkiError> {
        let path = self.dir.join("sa.key");
        if let Some(pem) = read(&path)? {
            let key = KeyPair::from_pem(&pem).map_err(|_| PkiError::Broken { path, what: "private key" })?;
            return Ok(key.serialize_der());
        }
        let key = KeyPair::generate()
            .map_err(|source| PkiError::Issue { subject: "service accounts".to_owned(), source })?;
        write_private(&path, key.serialize_pem().as_bytes())?;
        write_private(&self.dir.join("sa.pub"), key.public_key_pem().as_bytes())?;
        Ok(key.serialize_der())
    }

    /// A kubeconfig for `credentials` at `server` (a URL), with everything inline.
    pub fn kubeconfig(&self, server: &str, user: &str, credentials: &Credentials) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let inline = |text: &str| BASE64_STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: catamaran\nclusters:\n- name: catamaran\n  cluster:\n    \
             server: {server}\n    certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: catamaran\n  context:\n    \
             cluster: catamaran\n    user: {user}\n",
            inline(&self.ca),
            inline(&credentials.certificate),
            inline(&credentials.key)
        )
    }
}

fn create_authority(
    certificate: &Path,
    key_path: &Path,
    now: Timestamp,
) -> Result<(String, KeyPair), PkiError> {
    let failed = |source| PkiError::Issue { subject: "catamaran-ca".to_owned(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = name("catamaran-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, CA_DAYS);
    let made = params.self_signed(&key).map_err(failed)?;
    write_private(key_path, key.serialize_pem().as_bytes())?;
    write_private(certificate, made.pem().as_bytes())?;
    Ok((made.pem(), key))
}

fn name(user: &str, group: Option<&str>) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |days: i64| {
        let date = now.to_zoned(TimeZone::UTC).date().saturating_add(Span::new().days(days));
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(days);
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| PkiError::File { action: "write", path: path.to_owned(), source })
}

fn broken(path: &Path) -> PkiError {
    PkiError::Broken { path: path.to_owned(), what: "certificate" }
}

fn days_left(pem: &str, now: Timestamp) -> Option<i64> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    Some((parsed.validity().not_after.timestamp() - now.as_second()) / 86_400)
}

/// Whether a kept certificate still does for `subject`: issued by this authority, not near its end, and
/// holding every name and address asked for.
fn still_good(pem: &str, subject: &Subject, ca: &str, now: Timestamp) -> bool {
    let check = || -> Option<bool> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let authority = CertificateDer::from_pem_slice(ca.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let (_, authority) = X509Certificate::from_der(&authority).ok()?;
        let (names, addresses) = alternative_names(&parsed);
        let user = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok())?;
        Some(
            days_left(pem, now)? >= RENEW_DAYS
                && user == subject.user
                && parsed.verify_signature(Some(authority.public_key())).is_ok()
                && subject.names.iter().all(|name| names.contains(name))
                && subject.addresses.iter().all(|address| addresses.contains(address)),
        )
    };
    check().unwrap_or(false)
}

fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return (names, addresses) };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(raw) => {
                if let Ok(four) = <[u8; 4]>::try_from(*raw) {
                    addresses.push(IpAddr::from(four));
                } else if let Ok(sixteen) = <[u8; 16]>::try_from(*raw) {
                    addresses.push(IpAddr::from(sixteen));
                }
            }
            _ => {}
        }
    }
    (names, addresses)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authenticate::UserInfo;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn keeps_what_is_good_and_renews_what_ends() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let subject =
            Subject::server("catamaran", vec!["localhost".into()], vec!["127.0.0.1".parse().unwrap()]);
        let first = pki.credentials("server", &subject).unwrap();
        let again = Pki::open(dir.path(), now()).unwrap();
        assert_eq!(again.ca_pem(), pki.ca_pem());
        assert_eq!(again.credentials("server", &subject).unwrap().certificate, first.certificate);

        let more = Subject { names: vec!["other".into()], ..subject.clone() };
        let second = again.credentials("server", &more).unwrap();
        assert_ne!(second.certificate, first.certificate, "another name is asked for");

        let later = Pki::open(dir.path(), now() + Span::new().hours(24 * 340)).unwrap();
        assert_ne!(later.credentials("server", &more).unwrap().certificate, second.certificate);
    }

    #[test]
    fn files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        pki.credentials("admin", &Subject::client("admin", Some("system:masters"))).unwrap();
        pki.service_account_key().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn certificates_carry_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let made = pki.issue(&Subject::node("n1", vec!["10.128.0.1".parse().unwrap()])).unwrap();
        let user = UserInfo::from_certificate(&made.certificate_der().unwrap()).unwrap();
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
    }

    #[test]
    fn a_broken_authority_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path(), now()).unwrap();
        fs::write(dir.path().join("ca.crt"), "nonsense").unwrap();
        let error = Pki::open(dir.path(), now()).err().unwrap();
        assert!(error.to_string().contains("ca.crt holds no usable certificate"), "{error}");
    }
}
