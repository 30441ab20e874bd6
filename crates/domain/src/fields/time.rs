//! Times as platforms write them, to microseconds since the Unix epoch, cut off.

use super::decimal::Decimal;

/// How a field writes a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Since the Unix epoch, as the three that follow.
    Seconds,
    Millis,
    Micros,
    Nanos,
    /// ISO 8601: `2026-01-31T23:59:59.5Z`, `+01:00` instead of `Z`; without either it is UTC.
    Iso,
}

impl TimeUnit {
    pub(crate) const ALL: [Self; 5] =
        [Self::Seconds, Self::Millis, Self::Micros, Self::Nanos, Self::Iso];

    /// As it stands in a scenario.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
            Self::Iso => "iso",
        }
    }

    /// Its microsecond as a power of ten.
    const fn power(self) -> Option<i32> {
        match self {
            Self::Seconds => Some(6),
            Self::Millis => Some(3),
            Self::Micros => Some(0),
            Self::Nanos => Some(-3),
            Self::Iso => None,
        }
    }

    pub(super) fn read(self, text: &[u8]) -> Option<u64> {
        match self.power() {
            Some(power) => Decimal::read(text)?.scaled(power),
            None => iso(text),
        }
    }

    pub(super) fn of_whole(self, whole: u64) -> Option<u64> {
        let power = self.power()?;
        let factor = 10_u64.pow(power.unsigned_abs());
        if power < 0 { Some(whole / factor) } else { whole.checked_mul(factor) }
    }

    pub(super) fn of_float(self, float: f64) -> Option<u64> {
        let us = float * 10_f64.powi(self.power()?);
        (us >= 0.0 && us < u64::MAX as f64).then_some(us as u64)
    }
}

fn iso(text: &[u8]) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = match date {
        [_, _, _, _, b'-', _, _, b'-', _, _] => {
            (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?)
        }
        _ => return None,
    };
    let rest = match rest.split_first()? {
        (b'T' | b't' | b' ', rest) => rest,
        _ => return None,
    };
    let (clock, rest) = rest.split_at_checked(8)?;
    let (hour, minute, second) = match clock {
        [_, _, b':', _, _, b':', _, _] => {
            (number(&clock[..2])?, number(&clock[3..5])?, number(&clock[6..])?)
        }
        _ => return None,
    };
    let (micros, zone) = match rest.split_first() {
        Some((b'.' | b',', rest)) => {
            let n = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            (fraction(&rest[..n])?, &rest[n..])
        }
        _ => (0, rest),
    };
    // A leap second is the first one of the next minute.
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && (hour < 24 && minute < 60 && second <= 60);
    let seconds = i64::try_from(days_since_epoch(year, month, day) * 86_400).ok()?
        + i64::try_from(hour * 3_600 + minute * 60 + second).ok()?
        - offset_s(zone)?;
    u64::try_from(seconds).ok().filter(|_| fits)?.checked_mul(1_000_000)?.checked_add(micros)
}

/// Seconds that a zone's clocks are ahead.
fn offset_s(zone: &[u8]) -> Option<i64> {
    let (ahead, rest) = match zone {
        b"" | b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _, b':', _, _] => (number(&rest[..2])?, number(&rest[3..])?),
        [_, _, _, _] => (number(&rest[..2])?, number(&rest[2..])?),
        [_, _] => (number(rest)?, 0),
        _ => return None,
    };
    let fits = hours < 24 && minutes < 60;
    fits.then(|| ahead * i64::try_from(hours * 3_600 + minutes * 60).unwrap_or_default())
}

/// Microseconds of the digits behind a point.
fn fraction(digits: &[u8]) -> Option<u64> {
    let kept = &digits[..digits.len().min(6)];
    let missing = 6_u32.checked_sub(u32::try_from(kept.len()).ok()?)?;
    Some(number(kept).filter(|_| !kept.is_empty())? * 10_u64.pow(missing))
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let value = digits.iter().fold(0, |value: u64, digit| {
        value.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    });
    is_number.then_some(value)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The inverse of what prints dates, from 1970 on: years are counted from March there too.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let year = year.saturating_sub(u64::from(month <= 2));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.saturating_sub(1);
    let (era, of_era) = (year / 400, year % 400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    days.saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<u64> {
        TimeUnit::Iso.read(text.as_bytes())
    }

    #[test]
    fn the_forms_of_iso_8601_that_platforms_use_are_one_time() {
        let expected = Some(1_769_903_999_500_000);
        for text in [
            "2026-01-31T23:59:59.5Z",
            "2026-01-31T23:59:59.5000000Z",
            "2026-01-31 23:59:59,5",
            "2026-02-01T00:59:59.500+01:00",
            "2026-02-01T05:29:59.50000099+0530",
            "2026-01-31t20:59:59.5-03",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for wrong in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-31",
            "2026-01-31T24:00:00Z",
            "2026-01-31T23:59:59.Z",
            "2026-01-31T23:59:59 UTC",
            "1769903999",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn units_are_what_they_say() {
        let second = 1_769_903_999;
        for (unit, factor) in [
            (TimeUnit::Seconds, 1),
            (TimeUnit::Millis, 1_000),
            (TimeUnit::Micros, 1_000_000),
            (TimeUnit::Nanos, 1_000_000_000),
        ] {
            let expected = Some(second * 1_000_000);
            assert_eq!(unit.of_whole(second * factor), expected);
            assert_eq!(unit.read((second * factor).to_string().as_bytes()), expected);
            assert_eq!(
                unit.of_float((second * factor) as f64).map(|us| us / 1_000_000),
                Some(second)
            );
        }
        assert_eq!(TimeUnit::Seconds.of_float(f64::NAN), None);
        assert_eq!(TimeUnit::Seconds.of_float(1e300), None);
        assert_eq!(TimeUnit::Seconds.of_whole(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_a_template_prints_is_read_back(us in 0u64..253_402_300_799_999_999) {
            let mut text = Vec::new();
            digits::push_iso(&mut text, us);
            prop_assert_eq!(TimeUnit::Iso.read(&text), Some(us));
        }

        #[test]
        fn nothing_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            near in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.,]?[0-9]{0,20}[Z+-]?[0-9:]{0,6}",
        ) {
            for unit in TimeUnit::ALL {
                let _ = (unit.read(&bytes), unit.read(near.as_bytes()));
            }
        }
    }
}
