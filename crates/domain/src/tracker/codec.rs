//! A block as bytes in the store: varints, with what is missing and surplus after the devices.

use std::collections::BTreeMap;

use super::block::{Block, Line, MAX_INCARNATION, POSSIBLE, key, split};
use super::spans::{Span, Spans};
use crate::receipts::{push_varint, take_varint};

/// Blocks of the first kind knew nothing of windows.
const VERSIONS: [u64; 2] = [1, 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tracker block: {0}")]
pub struct BadBlock(pub(super) &'static str);

pub(super) fn encode(block: &Block) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.lines.len() * 6 + block.open.len() * 6);
    push_varint(&mut out, VERSIONS[usize::from(block.spans.is_some())]);
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
    let Some(spans) = &block.spans else {
        let mut surplus = BTreeMap::new();
        for ((key, _), n) in &block.surplus {
            *surplus.entry(*key).or_default() += n;
        }
        push_map(&mut out, surplus.into_iter());
        push_map(&mut out, block.repeats.iter().map(|(key, n)| (*key, *n)));
        return out;
    };
    push_timed(&mut out, block.surplus.iter().map(|((key, window), n)| (*key, *window, *n)));
    push_map(&mut out, block.repeats.iter().map(|(key, n)| (*key, *n)));
    push_timed(&mut out, spans.iter().map(|(key, span)| (key, span.window, span.count)));
    out
}

/// The windows of one device's numbers lie near each other, and its neighbours' too.
fn push_timed(out: &mut Vec<u8>, entries: impl ExactSizeIterator<Item = (u64, u32, u32)>) {
    push_varint(out, entries.len() as u64);
    let (mut before, mut at) = (0, 0_i64);
    for (key, window, n) in entries {
        push_varint(out, key - before);
        let ahead = i64::from(window) - at;
        push_varint(out, (ahead << 1 ^ ahead >> 63) as u64);
        push_varint(out, u64::from(n));
        (before, at) = (key, i64::from(window));
    }
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
    let version = rest.varint()?;
    if !VERSIONS.contains(&version) {
        return Err(BadBlock("of another version"));
    }
    let has_windows = version == VERSIONS[1];
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
    let surplus = match has_windows {
        true => rest.timed(n_devices)?.into_iter().map(|(key, at, n)| ((key, at), n)).collect(),
        false => rest.map(n_devices)?.into_iter().map(|(key, n)| ((key, 0), n)).collect(),
    };
    let repeats = rest.map(n_devices)?;
    let spans = if has_windows { Some(spans(rest.timed(n_devices)?)?) } else { None };
    if !rest.0.is_empty() {
        return Err(BadBlock("bytes after its end"));
    }
    let n_unsettled = spans.as_ref().map_or(0, Spans::len);
    Ok(Block {
        lines,
        past,
        open,
        surplus,
        repeats,
        out_of_order,
        late_events,
        was_blind,
        spans,
        n_unsettled,
    })
}

fn spans(entries: Vec<(u64, u32, u32)>) -> Result<Spans, BadBlock> {
    let mut through = 0;
    for (at, _, count) in &entries {
        let (device, incarnation, n) = split(*at);
        let end = at.checked_add(u64::from(*count));
        let most = key(device, incarnation, u32::MAX) + 1;
        let end = end.filter(|end| *at >= through && *count > 0 && *end <= most && n < u32::MAX);
        through = end.ok_or(BadBlock("stretches of numbers overlap"))?;
    }
    let span = |(at, window, count): (u64, u32, u32)| (at, Span { count, window });
    Ok(Spans::from_sorted(entries.into_iter().map(span)))
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

    fn timed(&mut self, n_devices: u32) -> Result<Vec<(u64, u32, u32)>, BadBlock> {
        let mut entries = Vec::new();
        let (mut key, mut at) = (0_u64, 0_i64);
        for _ in 0..self.varint()? {
            key = key.checked_add(self.varint()?).ok_or(BadBlock("a key is too great"))?;
            if split(key).0 >= n_devices {
                return Err(BadBlock("an entry of no device"));
            }
            let coded = self.varint()?;
            at = at.saturating_add((coded >> 1) as i64 ^ -((coded & 1) as i64));
            let window = u32::try_from(at).map_err(|_| BadBlock("a window is out of range"))?;
            entries.push((key, window, self.short()?));
        }
        Ok(entries)
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
