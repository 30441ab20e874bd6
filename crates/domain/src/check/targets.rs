//! Targets: everything a file may put load on.

use super::Check;
use super::text::Columns;
use crate::plan::{Endpoint, MqttTarget, Target, TargetKind};
use crate::scenario::{self, Written};

const DEFAULT_PORT: u16 = 1883;
/// MQTT counts the keep alive in 16 bits of seconds.
const MAX_KEEP_ALIVE_US: u64 = 65_535_000_000;

impl Check<'_> {
    /// In the file's order; `None` where any target is not usable.
    pub(super) fn targets(&self) -> Option<Vec<Target>> {
        let mut targets = Some(Vec::new());
        for target in &self.file.targets {
            self.later_texts(&target.later, &[], &[], Columns::None);
            let http = target.http.as_ref().and_then(|http| self.http_target(http));
            let http =
                http.map(|http| Target { name: target.name.clone(), kind: TargetKind::Http(http) });
            let mqtt = target.mqtt.as_ref().and_then(|mqtt| self.mqtt(mqtt));
            let mqtt =
                mqtt.map(|mqtt| Target { name: target.name.clone(), kind: TargetKind::Mqtt(mqtt) });
            match (mqtt.or(http), &mut targets) {
                (Some(target), Some(targets)) => targets.push(target),
                _ => targets = None,
            }
        }
        targets
    }

    /// Also the broker of an observer.
    pub(super) fn mqtt(&self, mqtt: &scenario::MqttTarget) -> Option<MqttTarget> {
        if let Some(protocol) = &mqtt.protocol
            && let Some(resolved) = self.resolve(protocol)
        {
            match resolved.text.as_str() {
                "3.1.1" => {}
                "5" | "5.0" => self.out.later(protocol.place, &protocol.path, "MQTT 5"),
                _ => self.misread(protocol, &resolved, "3.1.1 or 5"),
            }
        }
        let keep_alive_us = self.micros_or(mqtt.keep_alive.as_ref(), 60_000_000);
        if let (Some(written), Some(us)) = (&mqtt.keep_alive, keep_alive_us)
            && !(1_000_000..=MAX_KEEP_ALIVE_US).contains(&us)
            && let Some(resolved) = self.resolve(written)
        {
            self.misread(written, &resolved, "a duration from 1s to 65535s");
        }
        let endpoint = mqtt.url.as_ref().and_then(|url| self.endpoint(url));
        let ca = self.authorities(mqtt.ca.as_ref());
        Some(MqttTarget { endpoint: endpoint?, keep_alive_us: keep_alive_us?, ca: ca? })
    }

    fn endpoint(&self, url: &Written) -> Option<Endpoint> {
        let resolved = self.resolve(url)?;
        let text = resolved.text.as_str();
        if text == "builtin" {
            return Some(Endpoint::Builtin);
        }
        let expected = "mqtt://host[:port] or builtin";
        let Some((scheme, rest)) = text.split_once("://") else {
            self.misread(url, &resolved, expected);
            return None;
        };
        match scheme {
            "mqtt" | "tcp" => {}
            "mqtts" | "ssl" | "ws" | "wss" => {
                self.out.later(url.place, &url.path, &format!("`{scheme}://`"));
                return None;
            }
            _ => {
                self.misread(url, &resolved, expected);
                return None;
            }
        }
        match host_and_port(rest, DEFAULT_PORT) {
            Some((host, port)) => Some(Endpoint::Tcp { host, port }),
            None => {
                self.misread(url, &resolved, expected);
                None
            }
        }
    }
}

/// Host without the brackets of an IPv6 address.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, after.strip_prefix(':').or((after.is_empty()).then_some(""))?)
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let is_plain = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        if !is_plain || text.ends_with(':') {
            return None;
        }
        (host, port)
    };
    let port = match port {
        "" => default_port,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    Some((host.to_owned(), port))
}
