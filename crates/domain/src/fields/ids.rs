//! From the id of a device to its index.
//!
//! An open hash table over one text of all ids: about 20 bytes a device and the ids themselves.

use std::collections::BTreeMap;

use crate::plan::Plan;
use crate::template::DeviceScope;

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub struct Ids {
    text: Vec<u8>,
    /// Where the id of each index ends in the text.
    ends: Vec<usize>,
    /// Indices, at twice as many places as there are ids or more.
    slots: Vec<u32>,
}

impl Ids {
    /// Of all devices of a group in a run with this seed and mark.
    pub fn of(plan: &Plan, group: usize, seed: u64, run: &str) -> Self {
        let secrets = BTreeMap::new();
        let of = &plan.groups[group];
        let mut ids = Self::with_room_for(of.devices);
        for index in 0..of.devices {
            let scope = DeviceScope {
                seed,
                run,
                group: group as u32,
                index,
                device: "",
                lets: &[],
                rows: of.rows.as_ref(),
                captured: &[],
                secrets: &secrets,
            };
            of.id.render_device(&scope, &mut ids.text).expect("check refuses secrets in ids");
            ids.close(index as u32);
        }
        ids
    }

    fn with_room_for(n: u64) -> Self {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let n_slots = n.saturating_mul(2).max(2).next_power_of_two();
        Self { text: Vec::new(), ends: Vec::with_capacity(n), slots: vec![EMPTY; n_slots] }
    }

    /// The text since the last end is the id of this index, the next one.
    fn close(&mut self, index: u32) {
        self.ends.push(self.text.len());
        let mut at = self.first(self.id(index));
        while self.slots[at] != EMPTY {
            at = (at + 1) % self.slots.len();
        }
        self.slots[at] = index;
    }

    #[cfg(test)]
    pub(super) fn of_texts(texts: &[&str]) -> Self {
        let mut ids = Self::with_room_for(texts.len() as u64);
        for (index, text) in texts.iter().enumerate() {
            ids.text.extend_from_slice(text.as_bytes());
            ids.close(index as u32);
        }
        ids
    }

    pub fn index_of(&self, id: &[u8]) -> Option<u32> {
        let mut at = self.first(id);
        loop {
            match self.slots[at] {
                EMPTY => return None,
                index if self.id(index) == id => return Some(index),
                _ => at = (at + 1) % self.slots.len(),
            }
        }
    }

    fn id(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start..self.ends[index]]
    }

    /// FNV-1a, whose upper half is mixed into the lower one. The table holds our own ids only, so
    /// nobody outside can make it slow.
    fn first(&self, id: &[u8]) -> usize {
        let hash = id.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ hash >> 32) as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_id_has_its_index_and_nothing_else_has_one(
            ids in proptest::collection::btree_set("[a-c]{0,4}", 0..60),
            others in proptest::collection::vec("[a-d]{0,5}", 0..60),
        ) {
            let ids: Vec<String> = ids.into_iter().collect();
            let table = Ids::of_texts(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            for (index, id) in ids.iter().enumerate() {
                prop_assert_eq!(table.index_of(id.as_bytes()), Some(index as u32));
            }
            let known: BTreeSet<&String> = ids.iter().collect();
            for other in others.iter().filter(|other| !known.contains(other)) {
                prop_assert_eq!(table.index_of(other.as_bytes()), None);
            }
        }
    }
}
