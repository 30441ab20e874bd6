//! Shared access signatures, as Azure IoT Hub and Event Hubs take them: made by whoever connects, good
//! until a time that stands in them, renewed before that.
//!
//! Source: "Control access to IoT Hub by using shared access signatures" and "Authenticate access to
//! Event Hubs resources using shared access signatures" in Microsoft's documentation: sign
//! `<encoded resource>\n<expiry>` with HMAC-SHA256 under the key, which IoT Hub wants decoded and
//! Event Hubs as it stands there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// RFC 3986's unreserved characters stand for themselves.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The version of the hub's protocol that the user name asks for.
const API_VERSION: &str = "2021-04-12";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of its shared access signature is not base64, as the portal shows it")]
pub struct BadKey;

/// A key as the portal shows it.
fn decode(key: &str) -> Result<Vec<u8>, BadKey> {
    BASE64.decode(key.trim()).ok().filter(|key| !key.is_empty()).ok_or(BadKey)
}

fn sign(key: &[u8], message: &str) -> String {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

/// The key of one device under a group's key (enrollment groups).
pub fn device_key(group_key: &str, device: &str) -> Result<String, BadKey> {
    Ok(sign(&decode(group_key)?, device))
}

/// The password of `device` at `hub`, good until `expires_s` (Unix time).
pub fn token(hub: &str, device: &str, key: &str, expires_s: u64) -> Result<String, BadKey> {
    Ok(signed(&format!("{hub}/devices/{device}"), &decode(key)?, expires_s))
}

/// A token for `resource` of an Event Hubs namespace under the policy `key_name`.
pub fn policy_token(resource: &str, key_name: &str, key: &str, expires_s: u64) -> String {
    let key_name = utf8_percent_encode(key_name, ENCODED);
    format!("{}&skn={key_name}", signed(resource, key.as_bytes(), expires_s))
}

fn signed(resource: &str, key: &[u8], expires_s: u64) -> String {
    let resource = utf8_percent_encode(resource, ENCODED);
    let signature = sign(key, &format!("{resource}\n{expires_s}"));
    let signature = utf8_percent_encode(&signature, ENCODED);
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expires_s}")
}

/// The MQTT user name of `device` at `hub`.
pub fn user_name(hub: &str, device: &str) -> String {
    format!("{hub}/{device}/?api-version={API_VERSION}")
}

/// How long before its end a token is renewed: a tenth of its life.
pub fn renew_after_us(life_us: u64) -> u64 {
    life_us - life_us / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn a_token_is_what_another_implementation_makes() {
        // Computed with Python's hmac and urllib.
        let expected = "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fsensor-000017&sig=y0s6G1NjJyQH989NukybbC4GsjeP3TzBDxS9pwLoFf0%3D&se=1767225600";
        let token = token("hub.azure-devices.net", "sensor-000017", KEY, 1_767_225_600);
        assert_eq!(token.as_deref(), Ok(expected));
    }

    #[test]
    fn a_policys_token_is_signed_by_the_key_as_it_stands() {
        // Computed with Python's hmac and urllib.
        let expected = "SharedAccessSignature sr=amqps%3A%2F%2Fshoal.servicebus.windows.net%2Ftelemetry&sig=1y%2FuMIYyU3ZroshgEnS2xBWQZXi31UHMu3wP0Wk1q%2FA%3D&se=1767225600&skn=listen";
        let resource = "amqps://shoal.servicebus.windows.net/telemetry";
        assert_eq!(policy_token(resource, "listen", KEY, 1_767_225_600), expected);
    }

    #[test]
    fn a_device_of_a_group_has_a_key_of_its_own() {
        assert_eq!(
            device_key(KEY, "sensor-000017").as_deref(),
            Ok("T2BVy65QGzxI+XhLzjjzGo2Jk1cSF72W2sAetAV2pfw=")
        );
    }

    #[test]
    fn a_key_that_is_no_base64_is_refused() {
        for key in ["", "not base64", "%%%%"] {
            assert_eq!(token("hub", "device", key, 1), Err(BadKey), "{key}");
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        assert_eq!(renew_after_us(3_600_000_000), 3_240_000_000);
    }
}
