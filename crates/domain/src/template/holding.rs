//! What of a message can be read out of it again: whatever stands in it, encoded or not.

use super::{Generator, Part, Template};

impl Template {
    /// Whether every message has the value of such a generator in it.
    pub(crate) fn holds(&self, is_meant: &impl Fn(&Generator) -> bool) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Value(generator) => generator.holds(is_meant),
        })
    }
}

impl Generator {
    /// A hash does not hold what it is of, and a choice not each of what it is between.
    fn holds(&self, is_meant: &impl Fn(&Self) -> bool) -> bool {
        is_meant(self)
            || match self {
                Self::Pad { inner, .. }
                | Self::Hex(inner)
                | Self::Base64(inner)
                | Self::Lower(inner)
                | Self::Upper(inner)
                | Self::JsonText(inner)
                | Self::Number(_, inner) => inner.holds(is_meant),
                Self::Prefixed(_, inner) | Self::Gzip(inner) => inner.holds(is_meant),
                Self::Filled { payload, .. } => payload.holds(is_meant),
                _ => false,
            }
    }
}
