//! A certificate authority of one test.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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
