//! Numbers and times as bytes, appended to a buffer that the caller reuses.
//!
//! The publish path prints several numbers per message, so nothing here allocates.

use std::io::Write as _;

/// `00` to `99`: printing two digits at a time halves the divisions, which are what a number costs.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

const fn pair(below_100: u64) -> [u8; 2] {
    PAIRS[(below_100 % 100) as usize]
}

pub(crate) fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    while value >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&pair(value));
        value /= 100;
    }
    if value >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&pair(value));
    } else {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// All six digits of a number below a million.
const fn six(below_million: u64) -> [u8; 6] {
    let [a, b] = pair(below_million / 10_000);
    let [c, d] = pair(below_million / 100);
    let [e, f] = pair(below_million);
    [a, b, c, d, e, f]
}

/// At most six decimals, no exponent, no trailing zero: what a sensor would send.
pub(crate) fn push_f64(out: &mut Vec<u8>, value: f64) {
    let scaled = (value * 1e6).round();
    if scaled.abs() >= 9e15 {
        write!(out, "{value}").expect("writing to a buffer in memory cannot fail");
        return;
    }
    let scaled = scaled as i64;
    if scaled < 0 {
        out.push(b'-');
    }
    let magnitude = scaled.unsigned_abs();
    push_u64(out, magnitude / 1_000_000);
    let fraction = magnitude % 1_000_000;
    if fraction == 0 {
        return;
    }
    let digits = six(fraction);
    let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(&digits[..end]);
}

/// `2026-01-31T23:59:59.000001Z`.
pub(crate) fn push_iso(out: &mut Vec<u8>, unix_us: u64) {
    let seconds = unix_us / 1_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    text[..2].copy_from_slice(&pair(year / 100));
    text[2..4].copy_from_slice(&pair(year));
    text[5..7].copy_from_slice(&pair(month));
    text[8..10].copy_from_slice(&pair(day));
    text[11..13].copy_from_slice(&pair(seconds / 3_600 % 24));
    text[14..16].copy_from_slice(&pair(seconds / 60 % 60));
    text[17..19].copy_from_slice(&pair(seconds % 60));
    text[20..26].copy_from_slice(&six(unix_us % 1_000_000));
    out.extend_from_slice(&text);
}

/// Days since 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so
/// that the leap day is a year's last; 400 years have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// What may stand in a path and query as it is: unreserved characters, delimiters, escapes.
const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_percent(out: &mut Vec<u8>, byte: u8) {
    let [high, low] = hex_pair(byte);
    out.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
}

/// Appends a path with its query; only what may not stand there is escaped.
pub(crate) fn push_path(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        if is_path_byte(*byte) { out.push(*byte) } else { push_percent(out, *byte) }
    }
}

/// Appends one name or value of a query or form: everything but unreserved characters is escaped.
pub(crate) fn push_component(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        if is_unreserved(*byte) { out.push(*byte) } else { push_percent(out, *byte) }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) const fn hex_pair(byte: u8) -> [u8; 2] {
    [HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]
}

/// Replaces everything from `start` by its hexadecimal digits.
pub(crate) fn hex_in_place(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    out.resize(start + 2 * length, 0);
    // From the end, so that a byte is read before its digits overwrite it.
    for i in (0..length).rev() {
        let pair = hex_pair(out[start + i]);
        out[start + 2 * i..start + 2 * i + 2].copy_from_slice(&pair);
    }
}

/// Escapes everything from `start` so that it may stand between the quotes of a JSON string.
pub(crate) fn escape_json_in_place(out: &mut Vec<u8>, start: usize) {
    let extra: usize = out[start..].iter().map(|byte| escaped_length(*byte) - 1).sum();
    if extra == 0 {
        return;
    }
    let mut read = out.len();
    out.resize(read + extra, 0);
    let mut write = out.len();
    while read > start {
        read -= 1;
        let byte = out[read];
        write -= escaped_length(byte);
        match escaped_length(byte) {
            1 => out[write] = byte,
            2 => out[write..write + 2].copy_from_slice(&[b'\\', byte]),
            _ => {
                let [high, low] = hex_pair(byte);
                out[write..write + 6].copy_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
}

const fn escaped_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(print: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_printed_compactly() {
        assert_eq!(printed(|out| push_f64(out, 21.5)), "21.5");
        assert_eq!(printed(|out| push_f64(out, -0.000_001_4)), "-0.000001");
        assert_eq!(printed(|out| push_f64(out, -0.000_000_1)), "0");
        assert_eq!(printed(|out| push_f64(out, 3.0)), "3");
        assert_eq!(printed(|out| push_f64(out, 1e18)), "1000000000000000000");
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(printed(|out| push_iso(out, 0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            printed(|out| push_iso(out, 951_782_400_000_001)),
            "2000-02-29T00:00:00.000001Z"
        );
        assert_eq!(
            printed(|out| push_iso(out, 1_704_067_199_999_999)),
            "2023-12-31T23:59:59.999999Z"
        );
    }

    proptest! {
        #[test]
        fn printed_numbers_read_back(value: i64, float in -1e9..1e9_f64) {
            prop_assert_eq!(printed(|out| push_i64(out, value)).parse::<i64>().unwrap(), value);
            let read: f64 = printed(|out| push_f64(out, float)).parse().unwrap();
            prop_assert!((read - float).abs() <= 1e-6);
        }

        #[test]
        fn escaped_text_reads_back(text: String) {
            let escaped = printed(|out| {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                escape_json_in_place(out, 1);
                out.push(b'"');
            });
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
