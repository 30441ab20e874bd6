//! Numbers for people: three significant digits, thousands separators, the unit beside them.
//!
//! Machines get the document, where units stand in the names and nothing is rounded.

use shoal_domain::report::ThresholdReport;

/// `1,234,567`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `850 µs`, `12.3 ms`, `1.20 s`, `2 min 5 s`
pub(crate) fn micros(us: f64) -> String {
    if us < 999.5 {
        return if us.fract() == 0.0 {
            format!("{us:.0} µs")
        } else {
            format!("{} µs", three(us))
        };
    }
    let ms = us / 1e3;
    if ms < 999.5 {
        return format!("{} ms", three(ms));
    }
    seconds(us / 1e6)
}

/// `1.20 s`, `59.9 s`, `2 min 5 s`, `1 h 1 min`
pub(crate) fn seconds(s: f64) -> String {
    if s < 99.95 {
        return format!("{} s", three(s));
    }
    let whole = s.round() as u64;
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match (hours, minutes, seconds) {
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// `512 B`, `3.40 MiB`
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1_024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1_024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{} {}", three(value), UNITS[unit])
}

/// Per second.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s < 99.95 { three(per_s) } else { count(per_s.round() as u64) }
}

/// `0.12 %`
pub(crate) fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent.fract() == 0.0 { format!("{percent:.0} %") } else { format!("{} %", three(percent)) }
}

/// A value of a threshold, by the document's `unit`.
pub(crate) fn in_unit(value: f64, unit: &str) -> String {
    match unit {
        "us" => micros(value),
        "ratio" => percent(value),
        "per_s" => format!("{}/s", rate(value)),
        _ if value.fract() == 0.0 && value >= 0.0 => count(value as u64),
        _ => value.to_string(),
    }
}

/// Of a threshold judged by windows, the one that came out worst.
pub(crate) fn worst_window(threshold: &ThresholdReport) -> Option<String> {
    let windows = threshold.windows.as_ref()?;
    let (worst, at) = (windows.worst?, windows.worst_at_s?);
    let held = format!("{} of {} windows", count(windows.held), count(windows.judged));
    Some(format!("{held}, worst {} at {}", in_unit(worst, &windows.unit), seconds(at)))
}

/// Three significant digits; more where the whole part has more, fewer for small noise.
fn three(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value < 0.0995 {
        format!("{value:.3}")
    } else if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// `2026-03-01 12:00:05` in UTC, for an instant in microseconds since 1970.
pub(crate) fn instant(unix_us: u64) -> String {
    let seconds = unix_us / 1_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Days since 1970 to year, month, day, by Hinnant's `civil_from_days`: in years that begin in
/// March the leap day comes last, so months have closed forms.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_powers_of_1024() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3_565_158), "3.40 MiB");
        assert_eq!(bytes(1_048_000), "1.00 MiB");
    }

    #[test]
    fn counts_have_thousands_separators() {
        let shown = [0, 999, 1_000, 1_234_567].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn durations_have_three_significant_digits_and_a_unit() {
        let cases = [
            (0.0, "0 µs"),
            (850.0, "850 µs"),
            (999.6, "1.00 ms"),
            (1_234.0, "1.23 ms"),
            (12_345.0, "12.3 ms"),
            (999_499.0, "999 ms"),
            (999_999.0, "1.00 s"),
            (1_200_000.0, "1.20 s"),
            (125_000_000.0, "2 min 5 s"),
            (3_660_000_000.0, "1 h 1 min"),
        ];
        for (us, shown) in cases {
            assert_eq!(micros(us), shown, "{us}");
        }
    }

    #[test]
    fn threshold_values_are_shown_in_their_unit() {
        assert_eq!(in_unit(0.0012, "ratio"), "0.12 %");
        assert_eq!(in_unit(0.95, "ratio"), "95 %");
        assert_eq!(in_unit(1_150.0, "count"), "1,150");
        assert_eq!(in_unit(12_300.0, "us"), "12.3 ms");
        assert_eq!(in_unit(1_234.4, "per_s"), "1,234/s");
    }

    #[test]
    fn instants_are_dates_in_utc() {
        assert_eq!(instant(0), "1970-01-01 00:00:00");
        assert_eq!(instant(951_782_399_000_000), "2000-02-28 23:59:59");
        assert_eq!(instant(951_782_400_000_000), "2000-02-29 00:00:00");
        assert_eq!(instant(1_772_366_405_000_000), "2026-03-01 12:00:05");
    }
}
