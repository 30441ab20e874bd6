//! Whether a shared access signature opens a hub. Written from Microsoft's description, not from the
//! product's code, which it judges.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha2::Sha256;

/// Until when (Unix time) the token opens `resource`, or what is wrong with it.
pub(super) fn judge(
    token: &str,
    resource: &str,
    (name, key): (&str, &str),
) -> Result<u64, &'static str> {
    let fields = token.strip_prefix("SharedAccessSignature ").ok_or("MalformedToken")?;
    let field = |wanted: &str| {
        let mut all = fields.split('&').filter_map(|field| field.split_once('='));
        all.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (Some(sr), Some(sig), Some(se), Some(skn)) =
        (field("sr"), field("sig"), field("se"), field("skn"))
    else {
        return Err("MalformedToken: a field is missing");
    };
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes()).expect("any key");
    mac.update(format!("{sr}\n{se}").as_bytes());
    let expected = BASE64.encode(mac.finalize().into_bytes());
    if plain(skn) != name || plain(sig) != expected {
        return Err("InvalidSignature: The token has an invalid signature.");
    }
    if plain(sr) != resource {
        return Err("InvalidAudience: The token has an invalid audience.");
    }
    let until = se.parse().map_err(|_| "MalformedToken: no time")?;
    match until > now_s() {
        true => Ok(until),
        false => Err("ExpiredToken: The token is expired."),
    }
}

pub(super) fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_secs()
}
