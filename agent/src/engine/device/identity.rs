//! What makes a device itself: rendered once, when it starts.

use std::collections::BTreeMap;

use shoal_domain::plan::{Action, Credentials, Group, Plan, Send};
use shoal_domain::reply::Captured;
use shoal_domain::sas::{self, BadKey};
use shoal_domain::template::{DeviceScope, MissingSecret, Template};

use crate::mqtt::encode::Will;

/// The scope of a group, before its device is known.
pub(in crate::engine) fn scope<'a>(
    seed: u64,
    run: &'a str,
    group: usize,
    secrets: &'a BTreeMap<String, String>,
) -> DeviceScope<'a> {
    DeviceScope {
        seed,
        run,
        group: group as u32,
        index: 0,
        device: "",
        lets: &[],
        rows: None,
        captured: &[],
        secrets,
    }
}

#[derive(Debug)]
pub(in crate::engine) struct Identity {
    /// Device id and MQTT client id.
    pub(in crate::engine) id: Box<str>,
    pub(in crate::engine) lets: Box<[String]>,
}

/// User name and password, as far as the scenario gives them.
pub(in crate::engine) type Login = (Option<String>, Option<String>);

/// Why a device has nothing to log in with.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum NoLogin {
    #[error(transparent)]
    Missing(#[from] MissingSecret),
    #[error(transparent)]
    Key(#[from] BadKey),
}

impl Identity {
    pub(in crate::engine) fn render(
        group: &Group,
        scope: &DeviceScope<'_>,
        index: u64,
    ) -> Result<Self, MissingSecret> {
        let scope = DeviceScope { index, rows: group.rows.as_ref(), ..*scope };
        let id = Self::render_id(group, &scope, index)?;
        let mut lets: Vec<String> = Vec::with_capacity(group.lets.len());
        for binding in &group.lets {
            // Each sees those before it.
            let value = text(&binding.value, &DeviceScope { device: &id, lets: &lets, ..scope })?;
            lets.push(value);
        }
        Ok(Self { id: id.into(), lets: lets.into() })
    }

    /// The id of any device of a group.
    pub(in crate::engine) fn render_id(
        group: &Group,
        scope: &DeviceScope<'_>,
        index: u64,
    ) -> Result<String, MissingSecret> {
        text(&group.id, &DeviceScope { index, rows: group.rows.as_ref(), ..*scope })
    }

    /// Something that is known once per device; `scope` is this device's.
    pub(super) fn text(
        &self,
        template: &Template,
        scope: &DeviceScope<'_>,
    ) -> Result<String, MissingSecret> {
        text(template, scope)
    }

    /// The scope of a group, for this device.
    pub(in crate::engine) fn scope<'a>(
        &'a self,
        group: &'a Group,
        scope: &DeviceScope<'a>,
        index: u64,
    ) -> DeviceScope<'a> {
        let (device, lets, rows) = (&*self.id, &*self.lets, group.rows.as_ref());
        DeviceScope { index, device, lets, rows, ..*scope }
    }

    /// Rendered anew for each connection, so that no device keeps a copy of a secret; `unix_s` is
    /// the time from which a signature is good.
    pub(in crate::engine) fn credentials(
        &self,
        group: &Group,
        scope: &DeviceScope<'_>,
        index: u64,
        unix_s: u64,
    ) -> Result<Login, NoLogin> {
        let scope = self.scope(group, scope, index);
        let render = |template: &Option<Template>| {
            template.as_ref().map(|template| text(template, &scope)).transpose()
        };
        match &group.credentials {
            None => Ok((None, None)),
            Some(Credentials { sas: Some(sas), .. }) => {
                let mut key = text(&sas.key, &scope)?;
                if sas.is_group_key {
                    key = sas::device_key(&key, &self.id)?;
                }
                let expires_s = unix_s + sas.life_us / 1_000_000;
                let token = sas::token(&sas.hub, &self.id, &key, expires_s)?;
                Ok((Some(sas::user_name(&sas.hub, &self.id)), Some(token)))
            }
            Some(login) => Ok((render(&login.username)?, render(&login.password)?)),
        }
    }

    /// What the broker publishes should the connection end without a goodbye.
    pub(in crate::engine) fn will(
        &self,
        group: &Group,
        scope: &DeviceScope<'_>,
        index: u64,
    ) -> Result<Option<Will>, MissingSecret> {
        let Some(will) = &group.will else { return Ok(None) };
        let scope = self.scope(group, scope, index);
        let topic = text(&will.topic, &scope)?;
        let mut payload = Vec::new();
        will.payload.render_device(&scope, &mut payload)?;
        Ok(Some(Will { topic, payload, qos: will.qos, retain: will.retain }))
    }
}

/// Id and index of the device that a command goes to; nothing for other messages. `device` sends it.
pub(in crate::engine) fn addressee(
    plan: &Plan,
    device: &DeviceScope<'_>,
    send: &Send,
    slot: u64,
) -> Vec<Option<Captured>> {
    let Action::Command(command) = &send.action else { return Vec::new() };
    let DeviceScope { seed, run, group, index, secrets, .. } = *device;
    let index = command.addressee(plan, seed, (group, index), (send.series, slot));
    let scope = scope(seed, run, command.to, secrets);
    // `prepare` has rendered one of each group, and ids know no secrets.
    let id = Identity::render_id(&plan.groups[command.to], &scope, index).unwrap_or_default();
    let index = Captured { text: index.to_string(), is_json: true };
    vec![Some(Captured::text(&id)), Some(index)]
}

/// Values are text by construction; a byte that is not becomes the replacement character.
fn text(template: &Template, scope: &DeviceScope<'_>) -> Result<String, MissingSecret> {
    let mut bytes = Vec::new();
    template.render_device(scope, &mut bytes)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}
