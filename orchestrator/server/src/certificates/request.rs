//! A PKCS #10 request (RFC 2986) in PEM: whom it is for, and whether it is signed by the key that it is about. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, X509Extension};
use x509_parser::prelude::FromDer;

/// Of the extension subjectAltName.
const ALTERNATIVE_NAMES: &str = "2.5.29.17";

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PEM.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// Not PKCS #10.
    #[error("the certificate request is malformed")]
    Malformed,
    /// Somebody else signed it, or with an algorithm that is not known.
    #[error("the signature of the certificate request does not match its key")]
    Signature,
}

/// Whom a request is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestSubject {
    /// CN: the user.
    pub common_name: String,
    /// O: the groups.
    pub organizations: Vec<String>,
    /// Host names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether there are alternative names of another kind: mail addresses, URIs.
    pub other_names: bool,
}

/// The DER of a request in PEM.
pub(super) fn decode(pem: &[u8]) -> Result<CertificateSigningRequestDer<'static>, RequestError> {
    CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| RequestError::Pem)
}

/// The parsed form of what [`decode`] gave, its signature checked.
pub(super) fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, RequestError> {
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    Ok(request)
}

/// The extension that holds the alternative names.
pub(super) fn alternative_names<'a>(
    request: &'a X509CertificationRequest<'_>,
) -> Option<&'a X509Extension<'a>> {
    request.certification_request_info.iter_attributes().find_map(|attribute| {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            return None;
        };
        requested.extensions.iter().find(|extension| extension.oid.to_id_string() == ALTERNATIVE_NAMES)
    })
}

impl RequestSubject {
    /// Of a request in PEM.
    ///
    /// # Errors
    /// When it is no request, or not signed by its own key.
    pub fn of(pem: &[u8]) -> Result<Self, RequestError> {
        let der = decode(pem)?;
        let request = parse(&der)?;
        let subject = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|_| RequestError::Malformed)
        };
        let mut found = RequestSubject {
            common_name: subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            ..RequestSubject::default()
        };
        let names =
            request.requested_extensions().into_iter().flatten().filter_map(|extension| match extension {
                x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => Some(names),
                _ => None,
            });
        for name in names.flat_map(|names| &names.general_names) {
            match name {
                GeneralName::DNSName(name) => found.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    found.addresses.push(address(bytes).ok_or(RequestError::Malformed)?);
                }
                _ => found.other_names = true,
            }
        }
        Ok(found)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn what_a_request_says() {
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let found = RequestSubject::of(pem.as_bytes()).unwrap();
        let expected = RequestSubject {
            common_name: "system:node:n1".into(),
            organizations: vec!["system:nodes".into()],
            names: vec!["n1".into()],
            addresses: vec!["10.0.0.1".parse().unwrap()],
            other_names: false,
        };
        assert_eq!(found, expected);

        params.subject_alt_names = vec![SanType::Rfc822Name("a@b".try_into().unwrap())];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(RequestSubject::of(pem.as_bytes()).unwrap().other_names);
    }

    #[test]
    fn what_is_no_request() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let mut forged = request.der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&forged).unwrap_err(), RequestError::Signature);
        assert_eq!(parse(&forged[..40]).unwrap_err(), RequestError::Malformed);
        assert_eq!(RequestSubject::of(b"hello").unwrap_err(), RequestError::Pem);
        assert_eq!(RequestSubject::of(key.serialize_pem().as_bytes()).unwrap_err(), RequestError::Pem);
    }
}
