//! A cursor over one packet's bytes: every read is bounded by what is there.
//!
//! Nothing is copied and nothing panics: a peer's packet either reads to its end or is malformed.

use super::incoming::Broken;

#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Broken::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Broken> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Broken> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A packet id, never 0.
    pub(super) fn packet_id(&mut self) -> Result<u16, Broken> {
        match self.u16()? {
            0 => Err(Broken::Malformed),
            pid => Ok(pid),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Broken> {
        let n = usize::from(self.u16()?);
        std::str::from_utf8(self.take(n)?).map_err(|_| Broken::Malformed)
    }

    pub(super) fn length(&mut self) -> Result<usize, Broken> {
        let (length, n) = length(self.rest)?.ok_or(Broken::Malformed)?;
        self.rest = &self.rest[n..];
        Ok(length)
    }
}

/// A variable length and how many bytes say it; `None` while it is not complete.
pub(super) fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Broken> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((value, n + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Broken::Malformed) } else { Ok(None) }
}

/// What a server may say in the properties of its packets, as far as a device heeds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Properties<'a> {
    pub(super) receive_maximum: Option<u16>,
    pub(super) maximum_qos: Option<u8>,
    pub(super) retain_available: Option<u8>,
    pub(super) maximum_packet: Option<u32>,
    pub(super) topic_alias: Option<u16>,
    pub(super) topic_alias_maximum: Option<u16>,
    pub(super) server_keep_alive: Option<u16>,
    pub(super) reason: Option<&'a str>,
    pub(super) server_reference: Option<&'a str>,
    pub(super) user: UserProperties<'a>,
}

/// The user properties of a packet, which are read when somebody asks. They were well-formed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UserProperties<'a> {
    /// All properties from the first of them on.
    bytes: &'a [u8],
}

impl<'a> UserProperties<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = Reader::new(self.bytes);
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let mut found = Properties::default();
                if let Some(user) = found.read_one(&mut rest).ok()? {
                    return Some(user);
                }
            }
            None
        })
    }
}

impl<'a> Properties<'a> {
    /// With the length before them; none where the packet has ended already.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Broken> {
        if reader.is_empty() {
            return Ok(Self::default());
        }
        Self::read_present(reader)
    }

    pub(super) fn read_present(reader: &mut Reader<'a>) -> Result<Self, Broken> {
        let mut found = Self::default();
        let n = reader.length()?;
        let mut properties = Reader::new(reader.take(n)?);
        while !properties.is_empty() {
            let bytes = properties.rest();
            if found.read_one(&mut properties)?.is_some() && found.user.bytes.is_empty() {
                found.user = UserProperties { bytes };
            }
        }
        Ok(found)
    }

    /// One of them; name and value of a user property.
    fn read_one(&mut self, from: &mut Reader<'a>) -> Result<Option<(&'a str, &'a str)>, Broken> {
        // All of MQTT 5, 2.2.2.2, so that those that mean nothing here are skipped by their length.
        match from.u8()? {
            0x21 => self.receive_maximum = Some(from.u16()?),
            0x24 => self.maximum_qos = Some(from.u8()?),
            0x25 => self.retain_available = Some(from.u8()?),
            0x27 => self.maximum_packet = Some(from.u32()?),
            0x23 => self.topic_alias = Some(from.u16()?),
            0x22 => self.topic_alias_maximum = Some(from.u16()?),
            0x13 => self.server_keep_alive = Some(from.u16()?),
            0x1f => self.reason = Some(from.text()?),
            0x1c => self.server_reference = Some(from.text()?),
            0x01 | 0x17 | 0x19 | 0x28 | 0x29 | 0x2a => drop(from.u8()?),
            0x02 | 0x11 | 0x18 => drop(from.u32()?),
            0x0b => drop(from.length()?),
            0x03 | 0x08 | 0x12 | 0x15 | 0x1a => drop(from.text()?),
            0x09 | 0x16 => {
                let n = usize::from(from.u16()?);
                from.take(n)?;
            }
            0x26 => return Ok(Some((from.text()?, from.text()?))),
            _ => return Err(Broken::Malformed),
        }
        Ok(None)
    }
}
