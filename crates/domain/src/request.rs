//! What a request looks like for one device and one message: its path, its headers, its body.
//!
//! Rendering appends to buffers that the caller reuses. Invariant: what a path, query or form
//! renders holds only characters that may stand there, whatever the values are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::digits;
use crate::plan::{Body, HttpRequest, HttpTarget};
use crate::template::{DeviceScope, MessageScope, MissingSecret, Template, Walks};

impl HttpRequest {
    /// Appends path and query as they stand in the request line. An absolute path of the target
    /// loses its origin; `Err` holds the origin of any other.
    pub fn render_path(
        &self,
        target: &HttpTarget,
        device: &DeviceScope<'_>,
        message: &MessageScope,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        let mut raw = Vec::new();
        self.path.render_request(device, message, walks, &mut raw)?;
        let own = own_path(target, &raw)?;
        if own.len() == raw.len() {
            out.extend_from_slice(target.base_path.as_bytes());
        }
        if !own.starts_with(b"/") {
            out.push(b'/');
        }
        digits::push_path(out, own);
        let mut separator = if own.contains(&b'?') { b'&' } else { b'?' };
        for (name, value) in &self.query {
            out.push(separator);
            separator = b'&';
            pair(name, value, device, message, walks, &mut raw, out)?;
        }
        Ok(())
    }

    /// Appends the body; nothing where there is none.
    pub fn render_body(
        &self,
        device: &DeviceScope<'_>,
        message: &MessageScope,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        match &self.body {
            None => Ok(()),
            Some(Body::Whole(template)) => template.render_request(device, message, walks, out),
            Some(Body::Form(pairs)) => {
                let mut raw = Vec::new();
                for (i, (name, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        out.push(b'&');
                    }
                    pair(name, value, device, message, walks, &mut raw, out)?;
                }
                Ok(())
            }
        }
    }
}

/// What an Authorization header says for a name and a password.
pub fn basic(username: &[u8], password: &[u8]) -> String {
    let pair = [username, b":", password].concat();
    format!("Basic {}", BASE64.encode(pair))
}

/// Why a request cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    Secret(#[from] MissingSecret),
    #[error("its path leads to {0}, which is not the target: name it as a target")]
    Elsewhere(String),
}

/// The part of a URL that belongs into the request line.
fn own_path<'r>(target: &HttpTarget, raw: &'r [u8]) -> Result<&'r [u8], Unfit> {
    let scheme: &[u8] = if target.is_secure() { b"https://" } else { b"http://" };
    let other: &[u8] = if target.is_secure() { b"http://" } else { b"https://" };
    let elsewhere = |url: &[u8]| {
        let end = url.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(url.len());
        Unfit::Elsewhere(String::from_utf8_lossy(&url[..end.min(80)]).into_owned())
    };
    if let Some(rest) = raw.strip_prefix(other) {
        return Err(elsewhere(rest));
    }
    let Some(rest) = raw.strip_prefix(scheme) else { return Ok(raw) };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    if !rest[..end].eq_ignore_ascii_case(target.authority.as_bytes()) {
        return Err(elsewhere(rest));
    }
    Ok(&rest[end..])
}

fn pair(
    name: &str,
    value: &Template,
    device: &DeviceScope<'_>,
    message: &MessageScope,
    walks: &mut Walks,
    raw: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), MissingSecret> {
    digits::push_component(out, name.as_bytes());
    out.push(b'=');
    raw.clear();
    value.render_request(device, message, walks, raw)?;
    digits::push_component(out, raw);
    Ok(())
}
