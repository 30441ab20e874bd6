//! Certificates of devices: where they come from, and that no key travels with a run.

use super::Check;
use super::text::Scope;
use crate::plan::{Certificate, FileRef, Pem};
use crate::scenario::{self, CertificateKind, Written};
use crate::template::Template;

const AGENT: &str = "agent:/";

impl Check<'_> {
    /// `scope` allows secrets.
    pub(super) fn certificate(
        &self,
        written: &scenario::Certificate,
        scope: &Scope<'_>,
    ) -> Option<Certificate> {
        let pem = |part: &Option<Written>| {
            part.as_ref().and_then(|part| self.pem(part, written.kind, scope))
        };
        let (cert, key) = (pem(&written.cert), pem(&written.key));
        let is_signed = written.kind == CertificateKind::SignedBy;
        Some(Certificate { is_signed, cert: cert?, key: key? })
    }

    fn pem(&self, written: &Written, kind: CertificateKind, scope: &Scope<'_>) -> Option<Pem> {
        match kind {
            CertificateKind::Files if !written.text.starts_with(AGENT) => {
                let resolved = self.resolve(written);
                let message = format!(
                    "`{}` found, a path on the agent, agent:/..., expected",
                    resolved.map_or_else(|| written.text.clone(), |resolved| resolved.text)
                );
                let help = "keys are not shipped with a run: sign certificates by a test CA \
                            (signed_by), or keep the files on the agent";
                self.refuse(written, message, Some(help.to_owned()))
            }
            CertificateKind::Files => self.template(written, scope).map(Pem::OnAgent),
            CertificateKind::SignedBy if !written.text.contains("secret.") => {
                Some(match self.file_ref(written)? {
                    FileRef::Shipped(id) => Pem::Shipped(id),
                    FileRef::OnAgent(path) => Pem::OnAgent(Template::literal(&path)),
                })
            }
            _ => self.template(written, scope).map(Pem::Text),
        }
    }
}
