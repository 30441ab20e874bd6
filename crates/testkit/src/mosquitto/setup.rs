//! What a mosquitto is to be: who may come in, by which door, and what it keeps and refuses.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use super::program;
use crate::authority::{Authority, Pair};

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Plain,
    Tls,
    /// TLS, and whoever comes shows a certificate of the authority: its name is the user's.
    MutualTls,
    WebSocket,
    SecureWebSocket,
}

impl Door {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "mqtt",
            Self::Tls | Self::MutualTls => "mqtts",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
        }
    }

    fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::MutualTls | Self::SecureWebSocket)
    }
}

/// Open to anybody and forgetful, unless told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    login: Option<(String, String)>,
    is_persistent: bool,
    /// What its secure doors show, and the certificate of the authority that signed it.
    certificate: Option<(Pair, String)>,
    rules: Vec<String>,
    lines: Vec<String>,
}

impl Setup {
    /// Only this user may connect.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// What it keeps (sessions, retained messages) outlives [`super::Mosquitto::stop`].
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.is_persistent = true;
        self
    }

    /// All doors beside the plain one.
    #[must_use]
    pub fn with_all_doors(mut self, authority: &Authority) -> Self {
        let certificate = authority.sign(&["127.0.0.1", "localhost"]);
        self.certificate = Some((certificate, authority.cert_pem().to_owned()));
        self
    }

    /// A line of its access control list; without any, everything is allowed.
    #[must_use]
    pub fn allow(mut self, rule: &str) -> Self {
        self.rules.push(rule.to_owned());
        self
    }

    /// A line of its configuration.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// The plain one first.
    pub(super) fn doors(&self) -> Vec<Door> {
        let mut doors = vec![Door::Plain];
        if self.certificate.is_some() {
            let all = [Door::Tls, Door::MutualTls, Door::WebSocket, Door::SecureWebSocket];
            doors.extend(all);
        }
        doors
    }

    pub(super) fn configuration(
        &self,
        doors: &[(Door, SocketAddr)],
        dir: &Path,
    ) -> Result<String, String> {
        let write = |name: &str, text: &str| -> Result<String, String> {
            let file = dir.join(name);
            std::fs::write(&file, text).map_err(|error| format!("cannot write {name}: {error}"))?;
            Ok(file.display().to_string())
        };
        let mut lines = vec![format!("persistence {}", self.is_persistent)];
        if self.is_persistent {
            lines.push(format!("persistence_location {}/", dir.display()));
        }
        // By default it drops what a slow reader has not taken, in silence.
        lines.push("max_queued_messages 0".to_owned());
        if !self.lines.iter().any(|line| line.starts_with("max_inflight_messages")) {
            lines.push("max_inflight_messages 1000".to_owned());
        }
        if Uid::effective().is_root() {
            // Else it becomes a user that cannot read the files of this test.
            lines.push("user root".to_owned());
        }
        match &self.login {
            None => lines.push("allow_anonymous true".to_owned()),
            Some((user, password)) => {
                let file = dir.join("passwords");
                let made = Command::new(program("mosquitto_passwd"))
                    .args(["-b", "-c"])
                    .arg(&file)
                    .args([user, password])
                    .stderr(Stdio::null())
                    .status();
                if !made.is_ok_and(|status| status.success()) {
                    return Err("mosquitto_passwd failed".to_owned());
                }
                lines.push("allow_anonymous false".to_owned());
                lines.push(format!("password_file {}", file.display()));
            }
        }
        if !self.rules.is_empty() {
            lines.push(format!("acl_file {}", write("rules", &(self.rules.join("\n") + "\n"))?));
        }
        lines.extend_from_slice(&self.lines);
        for (door, addr) in doors {
            lines.push(format!("listener {} {}", addr.port(), addr.ip()));
            if matches!(door, Door::WebSocket | Door::SecureWebSocket) {
                lines.push("protocol websockets".to_owned());
            }
            if let (true, Some((shown, ca))) = (door.is_secure(), &self.certificate) {
                lines.push(format!("certfile {}", write("server.pem", &shown.cert_pem)?));
                lines.push(format!("keyfile {}", write("server.key", &shown.key_pem)?));
                if *door == Door::MutualTls {
                    lines.push(format!("cafile {}", write("ca.pem", ca)?));
                    lines.push("require_certificate true".to_owned());
                    lines.push("use_identity_as_username true".to_owned());
                }
            }
        }
        Ok(lines.join("\n") + "\n")
    }
}
