//! `${stamp}` read back: the mark of one message in whatever the platform made of it.
//!
//! The text is found by its first four bytes, wherever the platform has put it: a JSON field, an
//! escaped string inside another document, a header, a topic. Its characters survive all of them.
//! Invariant: what is not exactly a stamp is none, and bytes from outside never panic.

use memchr::memmem;

use crate::ids::SeriesId;

const MAGIC: &[u8] = b"sh1.";

/// The number of a readiness probe, which no message of a run comes to.
pub const PROBE: u32 = u32::MAX;

/// One message of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// See [`crate::ids::RunId::mark`], as a number.
    pub run: u32,
    pub series: SeriesId,
    /// Index of the device in its group.
    pub device: u32,
    pub incarnation: u32,
    /// Packets of this series, device and incarnation handed to the socket before this one.
    pub n: u32,
    /// Control-plane time of the send in microseconds since the Unix epoch.
    pub sent_us: u64,
}

/// The first stamp in `bytes`.
pub fn find(bytes: &[u8]) -> Option<Stamp> {
    let mut from = 0;
    while let Some(at) = memmem::find(&bytes[from..], MAGIC) {
        from += at + MAGIC.len();
        if let Some(stamp) = parse(&bytes[from..]) {
            return Some(stamp);
        }
    }
    None
}

/// What follows the magic: `<8 hex>.<series>.<device>.<incarnation>.<n>.<sent µs>`.
fn parse(bytes: &[u8]) -> Option<Stamp> {
    let (mark, mut rest) = bytes.split_at_checked(8)?;
    let run = mark.iter().try_fold(0_u32, |run, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(run << 4 | u32::from(digit))
    })?;
    let mut short = || u32::try_from(number(&mut rest)?).ok();
    let (series, device) = (SeriesId(short()?), short()?);
    let (incarnation, n) = (short()?, short()?);
    Some(Stamp { run, series, device, incarnation, n, sent_us: number(&mut rest)? })
}

/// A dot and a decimal number, which is cut off the front of `rest`.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let digits = rest.strip_prefix(b".")?;
    let n_digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if n_digits == 0 {
        return None;
    }
    let value = digits[..n_digits].iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    *rest = &digits[n_digits..];
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{DeviceScope, Generator, MessageScope, Template, Walks};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rendered(stamp: Stamp) -> Vec<u8> {
        let mut template = Template::default();
        template.push_value(Generator::Stamp);
        let (run, secrets) = (format!("{:08x}", stamp.run), BTreeMap::new());
        let device = DeviceScope {
            seed: 0,
            run: &run,
            group: 0,
            index: u64::from(stamp.device),
            device: "",
            lets: &[],
            rows: None,
            captured: &[],
            secrets: &secrets,
        };
        let message = MessageScope {
            series: stamp.series,
            slot: 0,
            child: 0,
            incarnation: stamp.incarnation,
            n: stamp.n,
            now_us: stamp.sent_us,
        };
        let mut out = Vec::new();
        template.render_message(&device, &message, &mut Walks::default(), &mut out);
        out
    }

    proptest! {
        #[test]
        fn what_a_template_renders_is_found_wherever_it_stands(
            run in any::<u32>(), series in any::<u32>(), device in any::<u32>(),
            incarnation in any::<u32>(), n in any::<u32>(), sent_us in any::<u64>(),
            before in "[^0-9]{0,20}", after in "[^0-9]{0,20}",
        ) {
            let stamp = Stamp { run, series: SeriesId(series), device, incarnation, n, sent_us };
            let mut bytes = before.into_bytes();
            bytes.extend(rendered(stamp));
            bytes.extend(after.into_bytes());
            prop_assert_eq!(find(&bytes), Some(stamp));
        }

        #[test]
        fn garbage_is_no_stamp_and_harms_nobody(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            tail in "sh1\\.[0-9a-f.]{0,80}",
        ) {
            let _ = find(&bytes);
            let _ = find(tail.as_bytes());
        }
    }

    #[test]
    fn half_a_stamp_before_a_whole_one_is_passed_over() {
        let bytes = b"sh1.sh1.0000002a.1.2.3.4 sh1.0000002a.1.2.3.4.5\"";
        let found = find(bytes).unwrap();
        assert_eq!((found.run, found.n, found.sent_us), (42, 4, 5));
        assert_eq!(find(b"sh1.0000002A.1.2.3.4.5"), None);
        assert_eq!(find(b"sh1.0000002a.1.2.3.4.99999999999999999999"), None);
    }
}
