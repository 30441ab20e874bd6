//! `read:` of an observer: four fields, each at a place that its source has, and each in the
//! messages on their way in.

use super::Check;
use crate::fields::{DeviceIs, Fields, Format, Place, Pointer, TimeUnit};
use crate::plan::Send;
use crate::scenario::{Binary, FieldAt, Read, Written};
use crate::template::Generator;

/// Of a text in binary; a device's id is an MQTT string.
const MAX_LENGTH: u64 = 65_535;
/// Beyond what any header of a payload is.
const MAX_AT: u64 = 1024 * 1024;

impl Check<'_> {
    /// `has_headers`: the source has something beside its values.
    pub(super) fn read_fields(
        &self,
        read: &Read,
        has_headers: bool,
        send: Option<&Send>,
    ) -> Option<Fields> {
        let place = |at: &Option<FieldAt>| self.place_of(at.as_ref()?, has_headers);
        let run = read.run.as_ref().and_then(|at| self.text_place(at, has_headers, "run"));
        let device_is = match read.device.as_ref()?.0 {
            "device" => DeviceIs::Id,
            _ => DeviceIs::Index,
        };
        let device = read.device.as_ref().and_then(|(_, at)| match device_is {
            DeviceIs::Id => self.text_place(at, has_headers, "device"),
            DeviceIs::Index => self.place_of(at, has_headers),
        });
        let (seq, sent) = (place(&read.seq), place(&read.sent));
        let unit = read
            .unit
            .as_ref()
            .and_then(|unit| TimeUnit::ALL.into_iter().find(|known| known.word() == unit.text));
        if let (Some(unit), Some(Place::Number { .. })) = (&read.unit, &sent)
            && unit.text == "iso"
        {
            let message = "`iso` is text: give it a `length` in place of `as`".to_owned();
            return self.refuse(unit, message, None);
        }
        let resolution_us = self.carried(read, device_is, send?)?;
        Some(Fields {
            run: run?,
            device: device?,
            device_is,
            seq: seq?,
            sent: sent?,
            unit: unit?,
            resolution_us,
        })
    }

    fn place_of(&self, at: &FieldAt, has_headers: bool) -> Option<Place> {
        match at {
            FieldAt::Json(written) => {
                let needs = "a JSON pointer of at most 32 parts, like /meta/seq";
                self.read(written, needs, Pointer::read).map(Place::Json)
            }
            FieldAt::Header(written) if !has_headers => {
                let message = "MQTT 3.1.1 has no headers".to_owned();
                let help = Some(
                    "say `protocol: 5`, or where in the payload it is: `json` or `binary`"
                        .to_owned(),
                );
                self.refuse(written, message, help)
            }
            FieldAt::Header(written) => {
                let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                self.read(written, "the name of a header", name).map(Place::Header)
            }
            FieldAt::Binary(binary) => self.binary_place(binary),
        }
    }

    /// Where only text can stand.
    fn text_place(&self, at: &FieldAt, has_headers: bool, what: &str) -> Option<Place> {
        match (at, self.place_of(at, has_headers)?) {
            (FieldAt::Binary(Binary { format: Some(format), .. }), Place::Number { .. }) => {
                let message = format!("`{what}` is text: give it a `length` in place of `as`");
                self.refuse(format, message, None)
            }
            (_, place) => Some(place),
        }
    }

    fn binary_place(&self, binary: &Binary) -> Option<Place> {
        let whole = |written: &Written, least, most| {
            self.whole(written, least, most).and_then(|value| usize::try_from(value).ok())
        };
        let at = binary.at.as_ref().and_then(|at| whole(at, 0, MAX_AT));
        if let Some(length) = &binary.length {
            let length = whole(length, 1, MAX_LENGTH);
            return Some(Place::Text { at: at?, length: length? });
        }
        let format = format_of(&binary.format.as_ref()?.text)?;
        Some(Place::Number { at: at?, format })
    }

    /// Whether the messages bring along what shall be found; by how much their time may be early.
    fn carried(&self, read: &Read, device_is: DeviceIs, send: &Send) -> Option<u64> {
        let publish = send.publish()?;
        let holds = |is_meant: &dyn Fn(&Generator) -> bool| {
            let in_properties = publish.properties.user.iter().map(|(_, value)| value);
            [&publish.payload, &publish.topic]
                .into_iter()
                .chain(in_properties)
                .any(|template| template.holds(&|generator: &Generator| is_meant(generator)))
        };
        let is = |wanted: Generator| holds(&|generator| *generator == wanted);
        let resolution_us = [
            (Generator::NowSeconds, 1_000_000),
            (Generator::NowMillis, 1_000),
            (Generator::NowMicros, 1),
            (Generator::NowIso, 1),
        ];
        // Which of several the platform hands on is not known.
        let resolution_us =
            resolution_us.into_iter().find(|(now, _)| is(now.clone())).map(|(_, us)| us);
        let lacks = [
            (is(Generator::Run), "${run}"),
            // An MQTT device's id is its client's too, which the platform may know it by.
            (device_is == DeviceIs::Id || is(Generator::Index), "${index}"),
            (is(Generator::Seq), "${seq}"),
            (resolution_us.is_some(), "time (like ${now_us})"),
        ];
        let lacks: Vec<&str> =
            lacks.into_iter().filter(|(has_it, _)| !has_it).map(|(_, what)| what).collect();
        if !lacks.is_empty() {
            let message = format!(
                "its messages carry no {}: what shall be found must be sent",
                lacks.join(", no ")
            );
            let help = Some("put it into the payload, the topic or a property".to_owned());
            self.out.report(read.place, &read.path, message, help);
        }
        resolution_us
    }
}

/// `u16`, `f64le`: one of those that the grammar knows.
fn format_of(word: &str) -> Option<Format> {
    let (word, is_little) = match word.strip_suffix("le") {
        Some(word) => (word, true),
        None => (word, false),
    };
    let (kind, bits) = word.split_at_checked(1)?;
    let n_bytes = bits.parse::<usize>().ok()? / 8;
    Some(Format { n_bytes, is_little, is_float: kind == "f" })
}
