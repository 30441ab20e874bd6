//! What devices show in their TLS handshakes: read on this agent, or signed here by a test authority.
//!
//! A signed device gets its own key, once per run on this agent: its connections show one
//! certificate. Keys live in memory only.

use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use shoal_domain::plan::{Certificate, Pem, Plan};
use shoal_domain::template::{DeviceScope, Template};

/// Larger files are no certificate and no key.
const MAX_PEM: u64 = 256 * 1024;

/// A test authority.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, which goes along.
    certificate: CertificateDer<'static>,
}

impl Signer {
    /// `scope` is that of any device: an authority is the same for all.
    pub(super) fn new(
        plan: &Plan,
        wanted: &Certificate,
        scope: &DeviceScope<'_>,
    ) -> Result<Self, String> {
        let cert = text_of(plan, &wanted.cert, scope)?;
        let key = text_of(plan, &wanted.key, scope)?;
        let key = KeyPair::from_pem(&key)
            .map_err(|error| format!("the key of its `signed_by` cannot be used: {error}"))?;
        let unusable =
            |why: String| format!("the certificate of its `signed_by` cannot be used: {why}");
        let certificate = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self { issuer, certificate })
    }

    fn sign(&self, device: &str) -> Result<CertifiedKey, String> {
        let spoken = |error: rcgen::Error| format!("no certificate for {device}: {error}");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(spoken)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(spoken)?;
        params.distinguished_name.push(DnType::CommonName, device);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let leaf = params.signed_by(&key, &self.issuer).map_err(spoken)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        certified(chain, key)
    }
}

/// What a device shows; `signer` is there where its certificate is signed here.
pub(super) fn of_device(
    plan: &Plan,
    wanted: &Certificate,
    signer: Option<&Signer>,
    scope: &DeviceScope<'_>,
) -> Result<CertifiedKey, String> {
    if let Some(signer) = signer {
        return signer.sign(scope.device);
    }
    let cert = text_of(plan, &wanted.cert, scope)?;
    let key = text_of(plan, &wanted.key, scope)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("its certificate cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("its certificate is not in PEM form".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("its key cannot be read: {error}"))?;
    certified(chain, key)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .map_err(|error| format!("its key and certificate do not go together: {error}"))
}

fn text_of(plan: &Plan, pem: &Pem, scope: &DeviceScope<'_>) -> Result<String, String> {
    let bytes = match pem {
        Pem::Shipped(id) => {
            let file = plan.files.get(id.index()).and_then(|file| file.bytes());
            file.ok_or("a certificate did not come with the run")?.to_vec()
        }
        Pem::Text(template) => rendered(template, scope)?,
        Pem::OnAgent(template) => {
            let path = String::from_utf8_lossy(&rendered(template, scope)?).into_owned();
            read(path.strip_prefix("agent:").unwrap_or(&path))?
        }
    };
    String::from_utf8(bytes).map_err(|_| "a certificate or key is no text".to_owned())
}

/// A device's id may be part of a path, so it must not lead out of where the scenario points.
fn read(path: &str) -> Result<Vec<u8>, String> {
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{path} leads elsewhere"));
    }
    let unreadable = |error| format!("{path} cannot be read on this agent: {error}");
    let meta = std::fs::metadata(Path::new(path)).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_PEM {
        return Err(format!("{path} is no file of at most {MAX_PEM} bytes"));
    }
    std::fs::read(path).map_err(unreadable)
}

fn rendered(template: &Template, scope: &DeviceScope<'_>) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    template.render_device(scope, &mut text).map_err(|missing| missing.to_string())?;
    Ok(text)
}
