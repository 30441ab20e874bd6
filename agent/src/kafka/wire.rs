//! Numbers, strings and arrays as they stand in requests and responses.

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not all of it is there: perhaps it is still to come.
    #[error("a message is cut off")]
    Short,
    #[error("{0}")]
    Bad(&'static str),
}

/// A longer message than this is not a Kafka broker's.
pub(crate) const MAX_FRAME: u32 = i32::MAX as u32;

/// Of the message that begins here, without the four bytes of the length itself.
pub(crate) fn frame_length(bytes: &[u8]) -> Result<usize, Malformed> {
    let length = Cursor::new(bytes).u32()?;
    match length {
        4..=MAX_FRAME => Ok(length as usize),
        _ => Err(Malformed::Bad("what answers does not speak Kafka, or only with TLS")),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Cursor<'b> {
    pub(crate) rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    pub(crate) fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Malformed> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// How many things follow; none for the array that is null.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        Ok(usize::try_from(self.i32()?).unwrap_or(0))
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, Malformed> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::Bad("a name is no text"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'b [u8], Malformed> {
        let length = self.count()?;
        self.take(length)
    }

    /// A number of a record: seven bits a byte, the sign in the last bit.
    pub(crate) fn varint(&mut self) -> Result<i64, Malformed> {
        let mut value = 0_u64;
        for (i, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(match self.rest.len() {
            10.. => Malformed::Bad("a number is too long"),
            _ => Malformed::Short,
        })
    }

    /// Bytes after their length as a varint; empty for those that are null.
    pub(crate) fn short_bytes(&mut self) -> Result<&'b [u8], Malformed> {
        match self.varint()? {
            -1 => Ok(&[]),
            length => {
                let length =
                    usize::try_from(length).map_err(|_| Malformed::Bad("a length below 0"));
                self.take(length?)
            }
        }
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names in requests are checked where they come from; none is near this long.
    let text = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text);
}

pub(crate) fn put_count(out: &mut Vec<u8>, n: usize) {
    out.extend((n as i32).to_be_bytes());
}
