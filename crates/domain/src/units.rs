//! Quantities as people write them: `5s`, `340000/min`, `0.1%`.
//!
//! Read exactly, in whole numbers, so that two machines never disagree about a period. A bare
//! number is a count and never a duration: every dimension carries its unit.

/// Nano-units: the finest fraction a written number may have.
const SCALE: u128 = 1_000_000_000;

/// Messages per time, kept as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Events × 10⁹.
    scaled: u128,
    per_ns: u128,
}

impl Rate {
    pub(crate) fn per_second(self) -> f64 {
        self.scaled as f64 / self.per_ns as f64
    }

    /// Events in so many nanoseconds, whole ones.
    pub(crate) fn events_in(self, ns: u64) -> u64 {
        let events = u128::from(ns).saturating_mul(self.scaled) / (self.per_ns * SCALE);
        u64::try_from(events).unwrap_or(u64::MAX)
    }

    /// Nanoseconds that `n` events take, rounded to the nearest; `None` beyond 64 bits.
    pub(crate) fn time_of(self, n: u64) -> Option<u64> {
        let product = u128::from(n).checked_mul(self.per_ns)?.checked_mul(SCALE)?;
        u64::try_from((product + self.scaled / 2) / self.scaled).ok()
    }
}

/// Nanoseconds of `5s`, `100ms`, `1.5h`.
pub(crate) fn duration_ns(text: &str) -> Option<u64> {
    let (scaled, unit) = number(text)?;
    let unit_ns: u128 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    u64::try_from(scaled.checked_mul(unit_ns)? / SCALE).ok()
}

/// `100/s`, `340000/min`, `10/h`; never zero.
pub(crate) fn rate(text: &str) -> Option<Rate> {
    let (scaled, unit) = number(text)?;
    let per_ns: u128 = match unit {
        "/s" => 1_000_000_000,
        "/min" => 60_000_000_000,
        "/h" => 3_600_000_000_000,
        _ => return None,
    };
    (scaled > 0).then_some(Rate { scaled, per_ns })
}

/// `0.1%` as 0.001.
pub(crate) fn percent(text: &str) -> Option<f64> {
    match number(text)? {
        (scaled, "%") => Some(scaled as f64 / SCALE as f64 / 100.0),
        _ => None,
    }
}

/// The share `percent` of `whole`, half up, exactly.
pub(crate) fn share_of(text: &str, whole: u64) -> Option<u64> {
    match number(text)? {
        (scaled, "%") => {
            let share = u128::from(whole).checked_mul(scaled)?.checked_add(50 * SCALE)?;
            u64::try_from(share / (100 * SCALE)).ok()
        }
        _ => None,
    }
}

/// A number without a unit, for thresholds on counts.
pub(crate) fn bare(text: &str) -> Option<f64> {
    match number(text)? {
        (scaled, "") => Some(scaled as f64 / SCALE as f64),
        _ => None,
    }
}

/// A relative weight, scaled; above 0 and at most a million.
pub(crate) fn weight(text: &str) -> Option<u128> {
    match number(text)? {
        (scaled, "") => Some(scaled).filter(|scaled| (1..=1_000_000 * SCALE).contains(scaled)),
        _ => None,
    }
}

/// A share of at most 100%, in millionths.
pub(crate) fn millionths(text: &str) -> Option<u32> {
    let ppm = share_of(text, 1_000_000)?;
    u32::try_from(ppm).ok().filter(|ppm| *ppm <= 1_000_000)
}

/// Bytes of `100B`, `1KiB`, `1.5MiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (scaled, unit) = number(text)?;
    let unit_bytes: u128 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    u64::try_from(scaled.checked_mul(unit_bytes)? / SCALE).ok()
}

pub(crate) fn whole(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number × 10⁹ and what follows it.
fn number(text: &str) -> Option<(u128, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits);
    // Twenty digits hold any 64-bit number; more could not be used.
    if whole.is_empty() || whole.len() > 20 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let Some(fraction_and_unit) = rest.strip_prefix('.') else {
        return Some((whole * SCALE, rest));
    };
    let digits = fraction_and_unit.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 9 {
        return None;
    }
    let (fraction, unit) = fraction_and_unit.split_at(digits);
    let fraction: u128 = fraction.parse().ok()?;
    Some((whole * SCALE + fraction * 10_u128.pow(9 - digits as u32), unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration_ns("5s"), Some(5_000_000_000));
        assert_eq!(duration_ns("1.5ms"), Some(1_500_000));
        assert_eq!(duration_ns("2h"), Some(7_200_000_000_000));
        for wrong in ["5", "s", "5 s", "-5s", "1e3s", "5.s", "5sec", "", "99999999999999999999999h"]
        {
            assert_eq!(duration_ns(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_rate_gives_exact_periods() {
        assert_eq!(rate("340000/min").unwrap().time_of(17_000), Some(3_000_000_000));
        assert_eq!(rate("100/s").unwrap().time_of(1), Some(10_000_000));
        assert_eq!(rate("0/s"), None);
        assert_eq!(rate("0.1/s").unwrap().per_second(), 0.1);
    }

    #[test]
    fn shares_round_half_up() {
        assert_eq!(share_of("50%", 5), Some(3));
        assert_eq!(share_of("100%", 6000), Some(6000));
        assert_eq!(share_of("33.3%", 10), Some(3));
        assert_eq!(percent("0.1%"), Some(0.001));
    }
}
