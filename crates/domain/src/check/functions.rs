//! The functions that an expression may call.
//!
//! Numbers that shape a value (bounds, widths) are known when the plan is made: literals or
//! variables. What is transformed (`hex`, `pad`, `choice`) may be any expression.

use super::Check;
use super::text::{Scope, Value, ValueKind};
use crate::diagnostics::suggest;
use crate::expression::Expression;
use crate::scenario::{Level, Written};
use crate::template::{Generator, NumberFormat};
use crate::units;
use crate::values::Walk;

/// Name, arguments, least and most of them.
const FUNCTIONS: [(&str, &str, usize, usize); 34] = [
    ("int", "low, high", 2, 2),
    ("float", "low, high", 2, 2),
    ("normal", "mean, deviation", 2, 2),
    ("choice", "a, b, ...", 1, 1000),
    ("walk", "low, high, step", 3, 3),
    ("sine", "low, high, period", 3, 3),
    ("step", "from, by", 2, 2),
    ("uuid", "", 0, 0),
    ("bytes", "n", 1, 1),
    ("pad", "x, width", 2, 2),
    ("hex", "x", 1, 1),
    ("base64", "x", 1, 1),
    ("lower", "x", 1, 1),
    ("upper", "x", 1, 1),
    ("sequence", "a, b, ...", 1, 1000),
    ("hmac_sha256", "key, message", 2, 2),
    ("u8", "x", 1, 1),
    ("i8", "x", 1, 1),
    ("u16", "x", 1, 1),
    ("u32", "x", 1, 1),
    ("u64", "x", 1, 1),
    ("i16", "x", 1, 1),
    ("i32", "x", 1, 1),
    ("i64", "x", 1, 1),
    ("f32", "x", 1, 1),
    ("f64", "x", 1, 1),
    ("u16le", "x", 1, 1),
    ("u32le", "x", 1, 1),
    ("u64le", "x", 1, 1),
    ("i16le", "x", 1, 1),
    ("i32le", "x", 1, 1),
    ("i64le", "x", 1, 1),
    ("f32le", "x", 1, 1),
    ("f64le", "x", 1, 1),
];

/// Whole numbers up to this are exact in a JSON reader's doubles.
const MAX_NUMBER: f64 = 9_007_199_254_740_992.0;
const MAX_BYTES: u64 = 65_536;
const MAX_WIDTH: u64 = 1_024;

/// A number as an argument may be written.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let shape = |b: u8| b.is_ascii_digit() || b == b'.' || b == b'-' || b == b'e' || b == b'E';
    if !text.bytes().all(shape) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.abs() <= MAX_NUMBER)
}

/// A call being compiled, so that its mistakes have one place.
struct Call<'c> {
    function: &'c str,
    arguments: &'c [Expression],
    scope: &'c Scope<'c>,
    written: &'c Written,
    offset: usize,
    check: &'c Check<'c>,
}

impl Check<'_> {
    pub(super) fn call(
        &self,
        function: &str,
        arguments: &[Expression],
        scope: &Scope<'_>,
        written: &Written,
        offset: usize,
    ) -> Option<Value> {
        let call = Call { function, arguments, scope, written, offset, check: self };
        let Some((name, signature, least, most)) =
            FUNCTIONS.iter().find(|(name, ..)| *name == function)
        else {
            let help = suggest(function, FUNCTIONS.iter().map(|(name, ..)| *name));
            return call.refuse_with(format!("`{function}` is no function"), help);
        };
        if !(*least..=*most).contains(&arguments.len()) {
            return call.refuse(format!(
                "`{name}({signature})` expected, {} arguments found",
                arguments.len()
            ));
        }
        if scope.level == Level::Plan {
            return self.too_early(function, "drawn once per device", scope, written, offset);
        }
        if scope.level == Level::Device && matches!(*name, "walk" | "sine" | "step" | "sequence") {
            return self.too_early(
                function,
                "moving from message to message",
                scope,
                written,
                offset,
            );
        }
        call.compile()
    }
}

impl Call<'_> {
    fn refuse_with<T>(&self, message: String, help: Option<String>) -> Option<T> {
        let place = self.written.at(self.offset);
        self.check.out.report(place, &self.written.path, message, help);
        None
    }

    fn refuse<T>(&self, message: String) -> Option<T> {
        self.refuse_with(message, None)
    }

    fn compile(&self) -> Option<Value> {
        let field = field(&self.written.path, self.offset, self.arguments);
        let number = |generator| Some(Value { generator, kind: ValueKind::Number });
        let text = |generator| Some(Value { generator, kind: ValueKind::Text });
        let bytes = |generator| Some(Value { generator, kind: ValueKind::Bytes });
        match self.function {
            "int" => {
                let (low, high) = self.bounds()?;
                if low.fract() != 0.0 || high.fract() != 0.0 {
                    return self
                        .refuse("`int` needs whole numbers, `float` takes others".to_owned());
                }
                number(Generator::Int { field, low: low as i64, high: high as i64 })
            }
            "float" => {
                let (low, high) = self.bounds()?;
                number(Generator::Float { field, low, high })
            }
            "normal" => {
                let (mean, deviation) = (self.number(0)?, self.not_negative(1)?);
                number(Generator::Normal { field, mean, deviation })
            }
            "choice" => self.choice(field),
            "walk" => {
                let ((low, high), step) = (self.bounds()?, self.not_negative(2)?);
                number(Generator::Walk { field, walk: Walk { low, high, step } })
            }
            "sine" => {
                let ((low, high), period) = (self.bounds()?, self.slots(2)?);
                number(Generator::Sine { low, high, period })
            }
            "step" => number(Generator::Step { from: self.number(0)?, by: self.number(1)? }),
            "uuid" => text(Generator::Uuid { field }),
            "bytes" => {
                let n = self.size(0, MAX_BYTES)?;
                bytes(Generator::Bytes { field, n })
            }
            "pad" => {
                let (inner, width) = (self.argument(0)?.text(), self.size(1, MAX_WIDTH)?);
                text(Generator::Pad { inner: Box::new(inner), width })
            }
            "hex" => text(Generator::Hex(self.raw(0)?)),
            "base64" => text(Generator::Base64(self.raw(0)?)),
            "lower" => text(Generator::Lower(Box::new(self.argument(0)?.text()))),
            "upper" => text(Generator::Upper(Box::new(self.argument(0)?.text()))),
            "sequence" => {
                let (options, kind) = self.options()?;
                Some(Value { generator: Generator::Sequence(options), kind })
            }
            name if let Some(format) = number_format(name) => {
                let inner = Box::new(self.argument(0)?.text());
                bytes(Generator::Number(format, inner))
            }
            _ => bytes(Generator::HmacSha256 { key: self.raw(0)?, message: self.raw(1)? }),
        }
    }

    fn choice(&self, field: u64) -> Option<Value> {
        let (options, kind) = self.options()?;
        Some(Value { generator: Generator::Choice { field, options }, kind })
    }

    /// All arguments, and the kind of what is one of them.
    fn options(&self) -> Option<(Vec<Generator>, ValueKind)> {
        let options: Option<Vec<Value>> =
            (0..self.arguments.len()).map(|i| self.argument(i)).collect();
        let options = options?;
        let are_numbers = options.iter().all(|option| option.kind == ValueKind::Number);
        let kind = if are_numbers { ValueKind::Number } else { ValueKind::Text };
        Some((options.into_iter().map(Value::text).collect(), kind))
    }

    fn argument(&self, i: usize) -> Option<Value> {
        self.check.expression(&self.arguments[i], self.scope, self.written, self.offset)
    }

    /// Raw bytes stay raw.
    fn raw(&self, i: usize) -> Option<Box<Generator>> {
        self.argument(i).map(|value| Box::new(value.generator))
    }

    /// A constant's text: a literal, or a variable's.
    fn constant(&self, i: usize) -> Option<String> {
        match self.argument(i)?.generator {
            Generator::Text(text) => Some(text),
            _ => self.refuse(format!(
                "`{}` needs a number or a variable as argument {}",
                self.function,
                i + 1
            )),
        }
    }

    fn number(&self, i: usize) -> Option<f64> {
        let text = self.constant(i)?;
        decimal(&text)
            .or_else(|| self.refuse(format!("`{}` needs a number, `{text}` found", self.function)))
    }

    fn not_negative(&self, i: usize) -> Option<f64> {
        let number = self.number(i)?;
        if number < 0.0 {
            return self
                .refuse(format!("`{}` needs no negative number, {number} found", self.function));
        }
        Some(number)
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        let (low, high) = (self.number(0)?, self.number(1)?);
        if low > high {
            return self.refuse(format!("`{}` goes from {low} up to {high}", self.function));
        }
        Some((low, high))
    }

    fn size(&self, i: usize, most: u64) -> Option<usize> {
        let text = self.constant(i)?;
        match units::whole(&text) {
            Some(size) if (1..=most).contains(&size) => usize::try_from(size).ok(),
            _ => self.refuse(format!(
                "`{}` needs a whole number from 1 to {most}, `{text}` found",
                self.function
            )),
        }
    }

    /// A period in slots: a bare number of them, or a duration of the series' own pace.
    fn slots(&self, i: usize) -> Option<f64> {
        let text = self.constant(i)?;
        let slots = match (units::duration_ns(&text), self.scope.period_ns) {
            (Some(ns), Some(period_ns)) => Some(ns as f64 / period_ns as f64),
            // The pace itself could not be read, which was reported.
            (Some(_), None) => Some(1.0),
            (None, _) => decimal(&text),
        };
        match slots {
            Some(slots) if slots > 0.0 => Some(slots),
            _ => self.refuse(format!(
                "`{}` needs a period, like 24h or a number of messages, `{text}` found",
                self.function
            )),
        }
    }
}

/// `u16`, `f32le`: a number as bytes, big-endian unless it says otherwise.
fn number_format(name: &str) -> Option<NumberFormat> {
    let (name, is_little) = match name.strip_suffix("le") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (kind, bits) = name.split_at_checked(1)?;
    let n_bytes = bits.parse::<u8>().ok()? / 8;
    Some(match kind {
        "f" => NumberFormat::Float { n_bytes, is_little },
        kind => NumberFormat::Int { n_bytes, is_signed: kind == "i", is_little },
    })
}

/// Tells the values of one expression from those of every other: its path, its place in the
/// scalar, and its arguments (which differ in nested calls). FNV-1a, so that it never changes.
fn field(path: &str, offset: usize, arguments: &[Expression]) -> u64 {
    format!("{path}#{offset}{arguments:?}").bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
