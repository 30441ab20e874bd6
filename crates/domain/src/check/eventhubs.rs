//! The Event Hubs source of an observer. Its connection string is a secret of the agent's as a rule, so
//! what stands in it is read there, by [`crate::eventhubs`].

use super::Check;
use super::targets::host_and_port;
use super::text::Scope;
use crate::eventhubs::TLS_PORT;
use crate::plan::{EventHubsSource, Tls};
use crate::scenario;

const DEFAULT_GROUP: &str = "$Default";
/// As Azure has it, of hubs; groups have 50.
const MAX_NAME: usize = 256;

impl Check<'_> {
    pub(super) fn eventhubs_source(
        &self,
        written: &scenario::EventHubsSource,
    ) -> Option<EventHubsSource> {
        let scope = Scope { secrets: true, ..Scope::plan() };
        let connection =
            written.connection.as_ref().and_then(|written| self.template(written, &scope));
        let hub = match &written.hub {
            Some(hub) => self
                .read(hub, "the name of an event hub", |text| {
                    is_name(text).then(|| text.to_owned())
                })
                .map(Some),
            None => Some(None),
        };
        let consumer_group = match &written.consumer_group {
            Some(group) => self.read(group, "the name of a consumer group", |text| {
                is_name(text).then(|| text.to_owned())
            }),
            None => Some(DEFAULT_GROUP.to_owned()),
        };
        let endpoint = match &written.endpoint {
            Some(endpoint) => {
                self.read(endpoint, "host:port", |text| host_and_port(text, TLS_PORT)).map(Some)
            }
            None => Some(None),
        };
        let token_life_us = self.token_life(written.ttl.as_ref());
        let ca = self.authorities(written.ca.as_ref());
        Some(EventHubsSource {
            connection: connection?,
            hub: hub?,
            consumer_group: consumer_group?,
            endpoint: endpoint?,
            token_life_us: token_life_us?,
            tls: Tls { ca: ca?, server_name: None, resumption: false },
        })
    }
}

/// Anything that can be one part of an address.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_plain)
}
