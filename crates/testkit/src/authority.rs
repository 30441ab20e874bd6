//! A certificate authority of one test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, Error, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate with its key, both in PEM form.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert_pem: String,
    pub key_pem: String,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Pair,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("the machine has random numbers");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a fresh key signs");
        let own = Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
        Self { issuer: Issuer::new(params, key), own }
    }

    pub fn cert_pem(&self) -> &str {
        &self.own.cert_pem
    }

    /// The secret of the authority itself.
    pub fn key_pem(&self) -> &str {
        &self.own.key_pem
    }

    /// For a server of these names and addresses.
    pub fn sign(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("the machine has random numbers");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names of a test are names");
        let cert = params.signed_by(&key, &self.issuer).expect("a fresh key is signed");
        Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }
}

/// What a server with a certificate for localhost needs, and its authority in PEM form.
pub(crate) fn certified() -> (rustls::ServerConfig, String) {
    let made = || -> Result<_, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let own_key = KeyPair::generate()?;
        let own =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&own_key, &issuer)?;
        Ok((authority.pem(), own.der().clone(), own_key.serialize_der()))
    };
    let (pem, certificate, key) = made().expect("a certificate can be made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key));
    (config.expect("the certificate fits its key"), pem)
}
