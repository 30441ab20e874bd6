//! Targets: everything a file may put load on.

use super::Check;
use crate::plan::{Endpoint, MqttTarget, Protocol, Target, TargetKind, Tls};
use crate::scenario::{self, Written};

/// MQTT counts the keep alive in 16 bits of seconds.
const MAX_KEEP_ALIVE_US: u64 = 65_535_000_000;
const DEFAULT_CONNECT_TIMEOUT_US: u64 = 10_000_000;
const MAX_CONNECT_TIMEOUT_US: u64 = 3_600_000_000;

impl Check<'_> {
    /// In the file's order; `None` where any target is not usable.
    pub(super) fn targets(&self) -> Option<Vec<Target>> {
        let mut targets = Some(Vec::new());
        for target in &self.file.targets {
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
        let protocol = match &mqtt.protocol {
            Some(written) => self.protocol(written),
            None => Some(Protocol::V3),
        };
        let clean_start = match &mqtt.clean_start {
            Some(_) => self.flag(mqtt.clean_start.as_ref()),
            None => Some(true),
        };
        let session_expiry_s = match &mqtt.session_expiry {
            Some(written) => self.whole_seconds(written),
            None => Some(0),
        };
        if let (Some(written), Some(Protocol::V3)) = (&mqtt.session_expiry, protocol) {
            let help = Some("write `clean_start: false` for a session that is kept".to_owned());
            let message = "`session_expiry` needs MQTT 5";
            self.out.report(written.place, &written.path, message, help);
        }
        let keep_alive_us = self.micros_or(mqtt.keep_alive.as_ref(), 60_000_000);
        if let (Some(written), Some(us)) = (&mqtt.keep_alive, keep_alive_us)
            && !(1_000_000..=MAX_KEEP_ALIVE_US).contains(&us)
            && let Some(resolved) = self.resolve(written)
        {
            self.misread(written, &resolved, "a duration from 1s to 65535s");
        }
        let connect_timeout_us = self.connect_timeout(mqtt.connect_timeout.as_ref());
        let ca = self.authorities(mqtt.ca.as_ref());
        let server_name = match &mqtt.server_name {
            Some(written) => self.server_name(written).map(Some),
            None => Some(None),
        };
        let resumption = self.flag(mqtt.tls_resumption.as_ref());
        let address = mqtt.url.as_ref().and_then(|url| self.mqtt_address(url))?;
        let tls = Tls { ca: ca?, server_name: server_name?, resumption: resumption? };
        Some(MqttTarget {
            endpoint: address.endpoint,
            tls: address.is_secure.then_some(tls),
            web_socket: address.web_socket,
            protocol: protocol?,
            keep_alive_us: keep_alive_us?,
            connect_timeout_us: connect_timeout_us?,
            clean_start: clean_start?,
            session_expiry_s: session_expiry_s?,
        })
    }

    /// An attempt that takes longer is given up and counted as a time-out.
    pub(super) fn connect_timeout(&self, written: Option<&Written>) -> Option<u64> {
        let us = self.micros_or(written, DEFAULT_CONNECT_TIMEOUT_US)?;
        match written {
            Some(written) if !(1_000..=MAX_CONNECT_TIMEOUT_US).contains(&us) => {
                let resolved = self.resolve(written)?;
                self.misread(written, &resolved, "a duration from 1ms to 1h");
                None
            }
            _ => Some(us),
        }
    }

    fn server_name(&self, written: &Written) -> Option<String> {
        let resolved = self.resolve(written)?;
        if is_host(&resolved.text) {
            return Some(resolved.text);
        }
        self.misread(written, &resolved, "a host name");
        None
    }

    fn protocol(&self, written: &Written) -> Option<Protocol> {
        let resolved = self.resolve(written)?;
        match resolved.text.as_str() {
            "3.1.1" => Some(Protocol::V3),
            "5" | "5.0" => Some(Protocol::V5),
            _ => {
                self.misread(written, &resolved, "3.1.1 or 5");
                None
            }
        }
    }

    fn mqtt_address(&self, url: &Written) -> Option<Address> {
        let resolved = self.resolve(url)?;
        let found = match resolved.text.as_str() {
            "builtin" => {
                Some(Address { endpoint: Endpoint::Builtin, is_secure: false, web_socket: None })
            }
            text => address(text),
        };
        if found.is_none() {
            let expected = "mqtt://host[:port], mqtts://host[:port], ws://host[:port]/path, \
                            wss://host[:port]/path or builtin";
            self.misread(url, &resolved, expected);
        }
        found
    }
}

struct Address {
    endpoint: Endpoint,
    is_secure: bool,
    web_socket: Option<String>,
}

fn address(text: &str) -> Option<Address> {
    let (scheme, rest) = text.split_once("://")?;
    let (is_secure, is_web_socket, port) = match scheme {
        "mqtt" | "tcp" => (false, false, 1883),
        "mqtts" | "ssl" => (true, false, 8883),
        "ws" => (false, true, 80),
        "wss" => (true, true, 443),
        _ => return None,
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let web_socket = match (is_web_socket, path) {
        (true, "" | "/") => Some("/mqtt".to_owned()),
        (true, path) if path.bytes().all(|b| b.is_ascii_graphic()) => Some(path.to_owned()),
        (false, "" | "/") => None,
        _ => return None,
    };
    let (host, port) = host_and_port(authority, port)?;
    Some(Address { endpoint: Endpoint::Tcp { host, port }, is_secure, web_socket })
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
        if !is_host(host) || text.ends_with(':') {
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

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}
