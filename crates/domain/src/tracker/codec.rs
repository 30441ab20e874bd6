//! A block as bytes in the store: varints, with what is missing and surplus after the devices.

use std::collections::BTreeMap;

use super::block::{Block, Line, MAX_INCARNATION, POSSIBLE, split};
use crate::receipts::{push_varint, take_varint};

const VERSION: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tracker block: {0}")]
pub struct BadBlock(pub(super) &'static str);

pub(super) fn encode(block: &Block) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.lines.len() * 6 + block.open.len() * 6);
    push_varint(&mut out, VERSION);
    push_varint(&mut out, u64::from(block.was_blind));
    push_varint(&mut out, block.out_of_order);
    push_varint(&mut out, block.late_events);
    block.lines.iter().for_each(|line| push_line(&mut out, line));
    push_varint(&mut out, block.past.len() as u64);
    for ((device, _), line) in &block.past {
        push_varint(&mut out, u64::from(*device));
        push_line(&mut out, line);
    }
    push_map(&mut out, block.open.iter().map(|(key, flags)| (*key, u32::from(*flags))));
    push_map(&mut out, block.surplus.iter().map(|(key, n)| (*key, *n)));
    push_map(&mut out, block.repeats.iter().map(|(key, n)| (*key, *n)));
    out
}

fn push_line(out: &mut Vec<u8>, line: &Line) {
    push_varint(out, u64::from(line.incarnation) << 1 | u64::from(line.is_blind));
    line.frontiers.iter().for_each(|frontier| push_varint(out, u64::from(*frontier)));
}

fn push_map(out: &mut Vec<u8>, entries: impl ExactSizeIterator<Item = (u64, u32)>) {
    push_varint(out, entries.len() as u64);
    let mut before = 0;
    for (key, value) in entries {
        push_varint(out, key - before);
        push_varint(out, u64::from(value));
        before = key;
    }
}

pub(super) fn decode(bytes: &[u8], n_devices: u32) -> Result<Block, BadBlock> {
    let mut rest = Rest(bytes);
    if rest.varint()? != VERSION {
        return Err(BadBlock("of another version"));
    }
    let was_blind = rest.varint()? == 1;
    let (out_of_order, late_events) = (rest.varint()?, rest.varint()?);
    let lines = (0..n_devices).map(|_| rest.line()).collect::<Result<Vec<_>, _>>()?;
    let mut past = BTreeMap::new();
    for _ in 0..rest.varint()? {
        let (device, line) = (rest.short()?, rest.line()?);
        if device >= n_devices || lines[device as usize].incarnation <= line.incarnation {
            return Err(BadBlock("an older incarnation is none"));
        }
        past.insert((device, line.incarnation), line);
    }
    let open = rest.map(n_devices)?;
    let open: BTreeMap<u64, u8> = open
        .into_iter()
        .map(|(key, flags)| Some((key, u8::try_from(flags).ok().filter(|f| *f < POSSIBLE << 1)?)))
        .collect::<Option<_>>()
        .ok_or(BadBlock("unknown flags"))?;
    let (surplus, repeats) = (rest.map(n_devices)?, rest.map(n_devices)?);
    if !rest.0.is_empty() {
        return Err(BadBlock("bytes after its end"));
    }
    Ok(Block { lines, past, open, surplus, repeats, out_of_order, late_events, was_blind })
}

struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn varint(&mut self) -> Result<u64, BadBlock> {
        take_varint(&mut self.0).ok_or(BadBlock("cut off, or a number is too long"))
    }

    fn short(&mut self) -> Result<u32, BadBlock> {
        u32::try_from(self.varint()?).map_err(|_| BadBlock("a number is too great"))
    }

    fn line(&mut self) -> Result<Line, BadBlock> {
        let head = self.varint()?;
        let incarnation = u32::try_from(head >> 1).ok().filter(|i| *i <= MAX_INCARNATION);
        let incarnation = incarnation.ok_or(BadBlock("an incarnation is too great"))?;
        let frontiers = [self.short()?, self.short()?, self.short()?];
        Ok(Line { incarnation, frontiers, is_blind: head & 1 == 1 })
    }

    fn map(&mut self, n_devices: u32) -> Result<BTreeMap<u64, u32>, BadBlock> {
        let mut map = BTreeMap::new();
        let mut key = 0_u64;
        for _ in 0..self.varint()? {
            let step = self.varint()?;
            key = key.checked_add(step).ok_or(BadBlock("a key is too great"))?;
            if split(key).0 >= n_devices {
                return Err(BadBlock("an entry of no device"));
            }
            map.insert(key, self.short()?);
        }
        Ok(map)
    }
}
