//! Random numbers of the operating system, for seeds, ids, tokens and jitter.
//!
//! Not for device values: those are pure functions of the run's seed and live in the domain crate.

/// Fills from the kernel. It can fail only where no random source exists at all, and a process that
/// went on with guessable tokens would be worse than one that stops.
fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random source works after boot");
}

pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

pub fn u128() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// 128 random bits as 32 lower-case hexadecimal characters.
pub fn token() -> String {
    format!("{:032x}", u128())
}

/// Evenly spread in `0.0..1.0`.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a f64 exactly")]
pub fn unit() -> f64 {
    (u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_32_hex_characters_and_never_the_same() {
        let (one, other) = (token(), token());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }

    #[test]
    fn a_unit_number_is_at_least_zero_and_less_than_one() {
        assert!((0..1000).map(|_| unit()).all(|unit| (0.0..1.0).contains(&unit)));
    }
}
