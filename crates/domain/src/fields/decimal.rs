//! Decimal numbers, as exact as they were written: `1764140400.123456`, `1.7641404e9`.

/// Beyond so many digits nothing is a time or a count.
const MAX_DIGITS: i32 = 38;

/// `digits · 10^exponent`, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    digits: u128,
    exponent: i32,
}

impl Decimal {
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], power(&text[at + 1..])?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) if at + 1 < mantissa.len() => (&mantissa[..at], &mantissa[at + 1..]),
            Some(_) => return None,
            None => (mantissa, &b""[..]),
        };
        if whole.is_empty() {
            return None;
        }
        let mut number = Self { digits: 0, exponent };
        for digit in whole {
            // A number of so many digits is too great, wherever its point may be.
            number.push(*digit).then_some(())?;
        }
        for digit in fraction {
            let is_room = number.push(*digit);
            if !digit.is_ascii_digit() {
                return None;
            }
            // What comes later is too small to matter.
            number.exponent -= i32::from(is_room);
        }
        Some(number)
    }

    fn push(&mut self, digit: u8) -> bool {
        let value = u128::from(digit.wrapping_sub(b'0'));
        let next = self.digits.checked_mul(10).and_then(|tens| tens.checked_add(value));
        match next {
            Some(next) if value < 10 && next < 10_u128.pow(MAX_DIGITS as u32) => {
                self.digits = next;
                true
            }
            _ => false,
        }
    }

    /// The number times `10^by`, cut off.
    pub(super) fn scaled(self, by: i32) -> Option<u64> {
        let exponent = self.exponent + by;
        let power = 10_u128.checked_pow(exponent.unsigned_abs());
        let scaled = match (exponent >= 0, power) {
            _ if self.digits == 0 => 0,
            (true, Some(power)) => self.digits.checked_mul(power)?,
            (true, None) => return None,
            (false, Some(power)) => self.digits / power,
            (false, None) => 0,
        };
        u64::try_from(scaled).ok()
    }

    /// `None` where it has a fraction.
    pub(super) fn whole(self) -> Option<u64> {
        let whole = self.scaled(0)?;
        let is_whole = self.exponent >= 0
            || 10_u128
                .checked_pow(self.exponent.unsigned_abs())
                .is_some_and(|power| self.digits.is_multiple_of(power));
        (is_whole || self.digits == 0).then_some(whole)
    }
}

fn power(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text.split_first()? {
        (b'-', digits) => (-1, digits),
        (b'+', digits) => (1, digits),
        _ => (1, text),
    };
    let fits = (1..=4).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(digits).ok().filter(|_| fits)?.parse::<i32>().ok()?;
    Some(sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scaled(text: &str, by: i32) -> Option<u64> {
        Decimal::read(text.as_bytes())?.scaled(by)
    }

    #[test]
    fn numbers_are_read_as_people_and_platforms_write_them() {
        assert_eq!(scaled("1764140400.123456", 6), Some(1_764_140_400_123_456));
        assert_eq!(scaled("1.7641404001234567e9", 6), Some(1_764_140_400_123_456));
        assert_eq!(scaled("1764140400123", 3), Some(1_764_140_400_123_000));
        assert_eq!(scaled("1764140400123456789", -3), Some(1_764_140_400_123_456));
        assert_eq!(scaled("0.0000000000000000000000000000000000000000001", 6), Some(0));
        assert_eq!((scaled("0e9999", 6), scaled("1e-9999", 6)), (Some(0), Some(0)));
        for wrong in ["", "-1", "+1", ".5", "5.", "1e", "1e+", "1e99999", "0x10", "1 2", "NaN"] {
            assert_eq!(Decimal::read(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!((scaled("1e9999", 0), scaled("99999999999999999999", 0)), (None, None));
        let whole = |text: &str| Decimal::read(text.as_bytes()).and_then(Decimal::whole);
        assert_eq!((whole("7"), whole("7.0"), whole("70e-1")), (Some(7), Some(7), Some(7)));
        assert_eq!((whole("4.294967297e9"), whole("7.5")), (Some(4_294_967_297), None));
    }

    proptest! {
        #[test]
        fn every_number_is_read_as_what_it_is(n in any::<u64>(), micros in 0u64..1_000_000) {
            prop_assert_eq!(Decimal::read(n.to_string().as_bytes()).unwrap().whole(), Some(n));
            let seconds = n / 1_000_000;
            let text = format!("{seconds}.{micros:06}");
            prop_assert_eq!(scaled(&text, 6), seconds.checked_mul(1_000_000).map(|us| us + micros));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[0-9eE.+-]{0,80}", by in -6i32..7) {
            if let Some(number) = Decimal::read(text.as_bytes()) {
                let _ = (number.scaled(by), number.whole());
            }
        }
    }
}
