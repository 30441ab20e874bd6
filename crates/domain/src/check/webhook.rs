//! The webhook source of an observer: where its agent listens, and what it asks for.

use std::net::SocketAddr;

use super::Check;
use super::text::Scope;
use crate::plan::WebhookSource;
use crate::scenario::{self, Written};

impl Check<'_> {
    pub(super) fn webhook_source(
        &self,
        webhook: &scenario::WebhookSource,
    ) -> Option<WebhookSource> {
        let needs = "an address of the agent with a port, like 0.0.0.0:9000";
        let listen = webhook.listen.as_ref().and_then(|written| {
            self.read(written, needs, |text| {
                text.parse().ok().filter(|listen: &SocketAddr| listen.port() > 0)
            })
        });
        let path = match &webhook.path {
            Some(written) => self.webhook_path(written),
            None => Some("/".to_owned()),
        };
        let scope = Scope { secrets: true, ..Scope::plan() };
        let bearer = match &webhook.bearer {
            Some(written) => self.template(written, &scope).map(Some),
            None => Some(None),
        };
        Some(WebhookSource { listen: listen?, path: path?, bearer: bearer? })
    }

    fn webhook_path(&self, written: &Written) -> Option<String> {
        let needs = "a path without a query, like /events";
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        self.read(written, needs, |text| {
            (text.starts_with('/') && text.bytes().all(is_plain)).then(|| text.to_owned())
        })
    }
}
