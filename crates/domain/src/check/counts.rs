//! How many devices each group has: a number of its own, or a share of the file's by its weight.

use super::Check;
use super::groups::MAX_DEVICES;
use crate::scenario::Written;
use crate::units;

impl Check<'_> {
    /// By group; `None` where it could not be read.
    pub(super) fn device_counts(&self) -> Vec<Option<u64>> {
        let groups = &self.file.groups;
        let mut counts: Vec<Option<u64>> = groups
            .iter()
            .map(|group| group.devices.as_ref().and_then(|devices| self.device_count(devices)))
            .collect();
        let weighted: Vec<usize> = (0..groups.len())
            .filter(|g| groups[*g].weight.is_some() && groups[*g].devices.is_none())
            .collect();
        let total = self.file.devices.as_ref().map(|total| (total, self.device_count(total)));
        let Some((written, total)) = total else {
            for weight in weighted.iter().filter_map(|group| groups[*group].weight.as_ref()) {
                let message = "a weight is a share of the file's `devices`, which are missing";
                self.out.report(weight.place, &weight.path, message, None);
            }
            return counts;
        };
        if weighted.is_empty() {
            let message = "no group has a `weight`: nobody gets a share of these";
            self.out.report(written.place, &written.path, message, None);
            return counts;
        }
        let weights: Option<Vec<u128>> =
            weighted.iter().map(|group| self.weight(groups[*group].weight.as_ref()?)).collect();
        let fixed = groups.iter().zip(&counts).filter(|(group, _)| group.devices.is_some());
        let fixed: Option<u64> = fixed.map(|(_, count)| *count).sum();
        let (Some(weights), Some(fixed), Some(total)) = (weights, fixed, total) else {
            return counts;
        };
        let Some(rest) = total.checked_sub(fixed).filter(|rest| *rest >= weights.len() as u64)
        else {
            let message = format!(
                "{total} devices in all, {fixed} of them in groups with their own number: too few \
                 are left for {} with a `weight`",
                if weights.len() == 1 {
                    "the one".to_owned()
                } else {
                    format!("the {}", weights.len())
                },
            );
            self.out.report(written.place, &written.path, message, None);
            return counts;
        };
        for (group, share) in weighted.iter().zip(shares(rest, &weights)) {
            counts[*group] = Some(share).filter(|share| *share > 0);
            if let (0, Some(weight)) = (share, &groups[*group].weight) {
                let message = format!("this weight gives none of the {rest} devices to this group");
                self.out.report(weight.place, &weight.path, message, None);
            }
        }
        counts
    }

    fn device_count(&self, written: &Written) -> Option<u64> {
        let devices = self.whole(written, 0, u64::MAX)?;
        if (1..=MAX_DEVICES).contains(&devices) {
            return Some(devices);
        }
        let resolved = self.resolve(written)?;
        self.misread(written, &resolved, &format!("a whole number from 1 to {MAX_DEVICES}"));
        None
    }

    fn weight(&self, written: &Written) -> Option<u128> {
        let resolved = self.resolve(written)?;
        let weight = units::weight(&resolved.text);
        if weight.is_none() {
            self.misread(written, &resolved, "a number above 0 and up to 1000000, like 1 or 2.5");
        }
        weight
    }
}

/// `whole` by weights: rounded down, and what is left goes to the largest remainders.
fn shares(whole: u64, weights: &[u128]) -> Vec<u64> {
    let total: u128 = weights.iter().sum();
    let scaled = |weight: &u128| u128::from(whole) * weight;
    let mut shares: Vec<u64> = weights.iter().map(|w| (scaled(w) / total) as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(scaled(&weights[*i]) % total));
    let left = whole - shares.iter().sum::<u64>();
    for i in order.into_iter().take(left as usize) {
        shares[i] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_to_one_to_one_of_6000_is_5000_500_500() {
        assert_eq!(shares(6_000, &[10, 1, 1]), [5_000, 500, 500]);
        assert_eq!(shares(7, &[10]), [7]);
        assert_eq!(shares(10, &[1, 1, 1]), [4, 3, 3]);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_none_is_more_than_one_off(
            whole in 1u64..100_000, weights in proptest::collection::vec(1u128..1_000, 1..8),
        ) {
            let shares = shares(whole, &weights);
            prop_assert_eq!(shares.iter().sum::<u64>(), whole);
            let total: u128 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = whole as f64 * *weight as f64 / total as f64;
                prop_assert!((*share as f64 - exact).abs() < 1.0);
            }
        }
    }
}
