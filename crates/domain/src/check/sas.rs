//! `credentials.sas`: passwords that devices sign themselves, for Azure IoT Hub.

use super::Check;
use super::text::Scope;
use crate::plan::Sas;
use crate::scenario::{self, Written};

const LIFE_US: u64 = 3_600_000_000;
/// A token must outlive connecting and the way to the hub by far.
const LEAST_LIFE_US: u64 = 10_000_000;

impl Check<'_> {
    pub(super) fn sas(
        &self,
        written: &scenario::Sas,
        group: &scenario::Group,
        is_mqtt: bool,
        scope: &Scope<'_>,
    ) -> Option<Sas> {
        if !is_mqtt {
            let message = "a shared access signature is for `mqtt` targets";
            self.out.report(written.place, &written.path, message, None);
        }
        if let Some(beside) = group.username.as_ref().or(group.bearer.as_ref()) {
            let message = format!("`{}` is not allowed beside `sas`, which makes it", beside.key());
            self.out.report(beside.place, &beside.path, message, None);
        }
        let hub = written.hub.as_ref().and_then(|hub| self.resolve(hub));
        let key = written.key.as_ref().and_then(|key| self.template(key, scope));
        let life_us = self.token_life(written.ttl.as_ref());
        Some(Sas {
            hub: hub?.text,
            key: key?,
            is_group_key: written.key_of.as_ref().is_some_and(|of| of.text == "group"),
            life_us: life_us?,
        })
    }

    /// How long a token is good for.
    pub(super) fn token_life(&self, ttl: Option<&Written>) -> Option<u64> {
        let life_us = self.micros_or(ttl, LIFE_US);
        if let (Some(ttl), Some(us)) = (ttl, life_us)
            && us < LEAST_LIFE_US
            && let Some(resolved) = self.resolve(ttl)
        {
            self.misread(ttl, &resolved, "a duration of at least 10s");
        }
        life_us
    }
}
