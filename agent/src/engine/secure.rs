//! What TLS connections to a target need: once for all of its devices, and each device's own.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use shoal_domain::plan::{Endpoint, FileRef, HttpProtocol, Plan, Target, TargetKind, Tls};

use super::tls;

/// Larger files of authorities are none.
const MAX_AUTHORITIES: u64 = 4 * 1024 * 1024;

/// Shared by all devices of a target.
#[derive(Debug, Clone)]
pub(super) struct Secure {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    /// Whether a device that comes back resumes its session.
    resumption: bool,
}

impl Secure {
    /// `None` where the target is not secured.
    pub(super) async fn of(plan: &Plan, target: &Target) -> Result<Option<Self>, String> {
        let (wanted, alpn): (_, &[&[u8]]) = match &target.kind {
            TargetKind::Mqtt(mqtt) => (mqtt.tls.as_ref(), &[]),
            TargetKind::Http(http) => match http.protocol {
                HttpProtocol::Http1 => (http.tls.as_ref(), &[b"http/1.1"]),
                HttpProtocol::Http2 => (http.tls.as_ref(), &[b"h2"]),
                HttpProtocol::Own(_) => (http.tls.as_ref(), &[]),
            },
        };
        let Some(wanted) = wanted else { return Ok(None) };
        let config = client_config(plan, wanted, alpn).await?;
        let host = match target.endpoint() {
            Endpoint::Builtin => "localhost",
            Endpoint::Tcp { host, .. } => host,
        };
        let name = tls::server_name(wanted.server_name.as_deref().unwrap_or(host))?;
        Ok(Some(Self { config: Arc::new(config), name, resumption: wanted.resumption }))
    }

    /// The configuration that only one device uses; `None` where the shared one will do.
    pub(super) fn own_config(&self, shown: Option<CertifiedKey>) -> Option<Arc<ClientConfig>> {
        if !self.resumption && shown.is_none() {
            return None;
        }
        let mut config = ClientConfig::clone(&self.config);
        if self.resumption {
            config.resumption = Resumption::in_memory_sessions(1);
        }
        if let Some(shown) = shown {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        }
        Some(Arc::new(config))
    }
}

/// Trusts whom the plan trusts.
pub(crate) async fn client_config(
    plan: &Plan,
    wanted: &Tls,
    alpn: &[&[u8]],
) -> Result<ClientConfig, String> {
    let authorities = match &wanted.ca {
        None => None,
        Some(FileRef::Shipped(id)) => {
            let file = plan.files.get(id.index()).and_then(|file| file.bytes());
            Some(file.ok_or("its `ca` did not come with the run")?.to_vec())
        }
        Some(FileRef::OnAgent(path)) => Some(read(path).await?),
    };
    tls::config(authorities.as_deref(), alpn)
        .map_err(|why| format!("its `ca` cannot be used: {why}"))
}

async fn read(path: &str) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("{path} cannot be read on this agent: {error}");
    let meta = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if meta.len() > MAX_AUTHORITIES {
        return Err(format!("{path} is larger than {MAX_AUTHORITIES} bytes"));
    }
    tokio::fs::read(path).await.map_err(unreadable)
}
