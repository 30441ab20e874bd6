//! The gate in front of every socket that puts load on something.
//!
//! A load generator that can be pointed anywhere is a weapon, so the owner of an agent may list what
//! it may load (`--allow-target`, repeatable). The guard sees both the name that was asked for and
//! the address it resolved to; it does not resolve itself, so there is no gap between check and use:
//! the caller connects to the address inside the [`Permit`]. Invariant: a `Permit` exists only for
//! an address that a rule allows.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

#[derive(Debug, Clone)]
pub struct TargetGuard {
    /// `None` allows everything; an empty list allows nothing.
    rules: Option<Vec<Rule>>,
}

/// Leave to connect to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    addr: SocketAddr,
}

impl Permit {
    pub fn addr(self) -> SocketAddr {
        self.addr
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "target {host} ({addr}) is not allowed on this agent: none of its rules covers it, \
     add --allow-target {suggestion} where the agent is started"
)]
pub struct Refused {
    pub host: String,
    pub addr: SocketAddr,
    pub suggestion: String,
}

impl TargetGuard {
    /// Everything may be loaded.
    pub fn any() -> Self {
        Self { rules: None }
    }

    /// Only what one of `rules` covers may be loaded.
    pub fn allowing(rules: Vec<Rule>) -> Self {
        Self { rules: Some(rules) }
    }

    /// `host` is what the scenario says, `addr` what it resolved to.
    pub fn authorize(&self, host: &str, addr: SocketAddr) -> Result<Permit, Refused> {
        let allowed = match &self.rules {
            None => true,
            Some(rules) => rules.iter().any(|rule| rule.covers(host, addr)),
        };
        if allowed {
            return Ok(Permit { addr });
        }
        let name = plain_host(host);
        let suggestion = match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", addr.port()),
            _ => format!("{name}:{}", addr.port()),
        };
        Err(Refused { host: host.to_owned(), addr, suggestion })
    }
}

/// One `--allow-target`: `host`, `host:port`, `10.0.0.0/8` or `10.0.0.0/8:1883`; IPv6 in brackets
/// when a port follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    place: Place,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Compared without case; never resolved.
    Host(String),
    /// The first `bits` of the address; the rest of `base` is zero.
    Net { base: IpAddr, bits: u8 },
}

impl Rule {
    fn covers(&self, host: &str, addr: SocketAddr) -> bool {
        if self.port.is_some_and(|port| port != addr.port()) {
            return false;
        }
        match &self.place {
            Place::Host(name) => plain_host(host).eq_ignore_ascii_case(name),
            // ::ffff:10.0.0.1 reaches 10.0.0.1, so it is judged as that.
            Place::Net { base, bits } => keep_bits(addr.ip().to_canonical(), *bits) == Some(*base),
        }
    }
}

/// A host as it is compared: no brackets, no dot at the end.
fn plain_host(host: &str) -> &str {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host)
}

/// The address with all but its first `bits` bits cleared; `None` when it has fewer bits.
fn keep_bits(ip: IpAddr, bits: u8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Some(IpAddr::V4((u32::from(ip) & mask).into()))
        }
        IpAddr::V6(ip) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Some(IpAddr::V6((u128::from(ip) & mask).into()))
        }
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--allow-target '{text}' cannot be used: {why}; \
     write a host, host:port, a network like 10.0.0.0/8 or 10.0.0.0/8:1883"
)]
pub struct RuleError {
    pub text: String,
    pub why: &'static str,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refuse = |why| RuleError { text: text.to_owned(), why };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(refuse("it is empty"));
        }
        if trimmed.contains("://") {
            return Err(refuse("it is a URL"));
        }
        let (place, port) = split_port(trimmed);
        let port = match port {
            None => None,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(refuse("its port is not a number from 1 to 65535")),
            },
        };
        Ok(Self { place: parse_place(place).map_err(refuse)?, port })
    }
}

/// Splits `place:port`. A bare IPv6 address or network (more than one colon, no brackets before the
/// last one) has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((place, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match rest.rsplit_once(':') {
            // "[2001:db8::]/32:1883": the prefix length stays with the network.
            Some((bits, port)) => (&text[..place.len() + 2 + bits.len()], Some(port)),
            None => (text, None),
        };
    }
    match text.rsplit_once(':') {
        // "2001:db8::/32:1883" has a port only after the slash.
        Some((place, port)) if !place.contains(':') || place.contains('/') => (place, Some(port)),
        _ => (text, None),
    }
}

fn parse_place(text: &str) -> Result<Place, &'static str> {
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits)),
        None => (text, None),
    };
    let ip = plain_host(ip);
    match (ip.parse::<IpAddr>(), bits) {
        (Ok(ip), None) => {
            let ip = ip.to_canonical();
            Ok(Place::Net { base: ip, bits: if ip.is_ipv4() { 32 } else { 128 } })
        }
        (Ok(ip), Some(bits)) => {
            let bits = bits.parse::<u8>().map_err(|_| "its prefix length is not a number")?;
            let (ip, bits) = canonical_net(ip, bits);
            let base = keep_bits(ip, bits).ok_or("its prefix length is too long")?;
            Ok(Place::Net { base, bits })
        }
        (Err(_), Some(_)) => Err("what stands before the slash is not an address"),
        (Err(_), None) if is_host(ip) => Ok(Place::Host(ip.to_owned())),
        (Err(_), None) => Err("it is neither a host name nor an address"),
    }
}

/// A network of IPv4-mapped addresses is the IPv4 network it stands for.
fn canonical_net(ip: IpAddr, bits: u8) -> (IpAddr, u8) {
    match ip.to_canonical() {
        IpAddr::V4(v4) if ip.is_ipv6() && bits >= 96 => (IpAddr::V4(v4), bits - 96),
        IpAddr::V4(_) if ip.is_ipv6() => (ip, bits),
        ip => (ip, bits),
    }
}

fn is_host(text: &str) -> bool {
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(label)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Host(name) => write!(f, "{name}")?,
            Place::Net { base, bits } => write!(f, "{base}/{bits}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
