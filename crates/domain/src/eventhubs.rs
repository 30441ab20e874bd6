//! The connection string of Azure Event Hubs: where a namespace is, what opens it, and which hub is
//! meant. The built-in endpoint of an IoT Hub and the emulator have one of the same form.
//!
//! Invariant: no error repeats any part of it, because it holds a key.

use thiserror::Error;

/// AMQP inside TLS, and without, as the emulator speaks it.
pub const TLS_PORT: u16 = 5671;
pub const PLAIN_PORT: u16 = 5672;

#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The namespace, by its full name.
    pub host: String,
    pub port: u16,
    pub is_plain: bool,
    /// `EntityPath`.
    pub hub: Option<String>,
    pub access: Access,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// Of a shared access policy: what signs tokens.
    Policy { name: String, key: String },
    /// A token that somebody else has signed; it cannot be renewed.
    Token(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadConnectionString {
    #[error("it is empty")]
    Empty,
    #[error("its part {0} is no `Name=value`")]
    Part(usize),
    #[error("it has no `{0}`")]
    Lacks(&'static str),
    #[error("its `Endpoint` is not like sb://example.servicebus.windows.net/")]
    Endpoint,
}

impl ConnectionString {
    pub fn read(text: &str) -> Result<Self, BadConnectionString> {
        let (mut endpoint, mut name, mut key, mut token, mut hub) = (None, None, None, None, None);
        let mut is_emulator = false;
        let text = text.trim();
        if text.is_empty() {
            return Err(BadConnectionString::Empty);
        }
        for (n, part) in text.split(';').enumerate().filter(|(_, part)| !part.trim().is_empty()) {
            let (word, value) = part.split_once('=').ok_or(BadConnectionString::Part(n + 1))?;
            let value = value.trim();
            let kept = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match word.trim().to_ascii_lowercase().as_str() {
                "endpoint" => endpoint = kept(),
                "sharedaccesskeyname" => name = kept(),
                "sharedaccesskey" => key = kept(),
                "sharedaccesssignature" => token = kept(),
                "entitypath" => hub = kept(),
                "usedevelopmentemulator" => is_emulator = value.eq_ignore_ascii_case("true"),
                // What newer tools may write beside them.
                _ => {}
            }
        }
        let endpoint = endpoint.ok_or(BadConnectionString::Lacks("Endpoint"))?;
        let (scheme, rest) = endpoint.split_once("://").ok_or(BadConnectionString::Endpoint)?;
        let is_plain = match scheme.to_ascii_lowercase().as_str() {
            "sb" | "amqps" => is_emulator,
            "amqp" => true,
            _ => return Err(BadConnectionString::Endpoint),
        };
        let (host, port) = host_and_port(rest).ok_or(BadConnectionString::Endpoint)?;
        let access = match (token, name, key) {
            (Some(token), _, _) => Access::Token(token),
            (None, Some(name), Some(key)) => Access::Policy { name, key },
            (None, None, _) => return Err(BadConnectionString::Lacks("SharedAccessKeyName")),
            (None, Some(_), None) => return Err(BadConnectionString::Lacks("SharedAccessKey")),
        };
        let port = port.unwrap_or(if is_plain { PLAIN_PORT } else { TLS_PORT });
        Ok(Self { host, port, is_plain, hub, access })
    }

    /// What a token is for.
    pub fn resource(&self, hub: &str) -> String {
        format!("amqps://{}/{hub}", self.host)
    }
}

fn host_and_port(rest: &str) -> Option<(String, Option<u16>)> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port > 0)?)),
        None => (rest, None),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let fits = !host.is_empty() && host.len() <= 255 && host.bytes().all(is_host);
    fits.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORTAL: &str = "Endpoint=sb://shoal.servicebus.windows.net/;SharedAccessKeyName=listen;\
                          SharedAccessKey=c2VjcmV0+/=;EntityPath=telemetry";

    #[test]
    fn what_the_portal_shows_is_read() {
        let read = ConnectionString::read(PORTAL).ok().unwrap();
        assert_eq!((read.host.as_str(), read.port), ("shoal.servicebus.windows.net", 5671));
        assert_eq!((read.is_plain, read.hub.as_deref()), (false, Some("telemetry")));
        let (name, key) = ("listen".to_owned(), "c2VjcmV0+/=".to_owned());
        assert!(read.access == Access::Policy { name, key });
        assert_eq!(read.resource("telemetry"), "amqps://shoal.servicebus.windows.net/telemetry");
    }

    #[test]
    fn the_emulator_speaks_without_tls() {
        let read = |endpoint: &str, rest: &str| {
            let keys = "SharedAccessKeyName=Root;SharedAccessKey=SAS_KEY_VALUE";
            let text = format!("Endpoint={endpoint};{keys};{rest}");
            ConnectionString::read(&text).map(|read| (read.host, read.port, read.is_plain))
        };
        let at = |port, is_plain| Ok(("localhost".to_owned(), port, is_plain));
        assert_eq!(read("sb://localhost", "UseDevelopmentEmulator=true;"), at(5672, true));
        assert_eq!(read("sb://localhost:7000/", "UseDevelopmentEmulator=true"), at(7000, true));
        assert_eq!(read("sb://localhost", "UseDevelopmentEmulator=false"), at(5671, false));
        assert_eq!(read("sb://localhost:7000", ""), at(7000, false));
        assert_eq!(read("http://localhost:7000", ""), Err(BadConnectionString::Endpoint));
        assert_eq!(read("sb://", ""), Err(BadConnectionString::Endpoint));
        assert_eq!(read("sb://host:0", ""), Err(BadConnectionString::Endpoint));
    }

    #[test]
    fn what_is_missing_is_named() {
        let lacks = |text: &str| ConnectionString::read(text).err().map(|bad| bad.to_string());
        assert_eq!(lacks(" "), Some("it is empty".to_owned()));
        assert_eq!(lacks("telemetry"), Some("its part 1 is no `Name=value`".to_owned()));
        assert_eq!(lacks("SharedAccessKey=a"), Some("it has no `Endpoint`".to_owned()));
        let text = "Endpoint=sb://a.b/;SharedAccessKeyName=n";
        assert_eq!(lacks(text), Some("it has no `SharedAccessKey`".to_owned()));
        let text = "Endpoint=sb://a.b/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y";
        assert_eq!(lacks(text), None);
    }

    proptest! {
        #[test]
        fn nothing_of_it_comes_out_in_an_error(text in "[A-Za-z]{8,20}(=[A-Z]{8,20};)?{0,4}") {
            if let Err(bad) = ConnectionString::read(&text) {
                let said = bad.to_string();
                prop_assert!(text.split([';', '=']).filter(|part| part.len() > 7).all(|part| {
                    !said.contains(part)
                }), "{}", said);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = ConnectionString::read(&text);
        }
    }
}
