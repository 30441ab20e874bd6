//! Which subscriptions a topic matches: a trie by topic level, so that ten thousand devices with
//! their own command topic cost one walk per publish and not ten thousand comparisons.
//!
//! Rules are those of MQTT 3.1.1 section 4.7: `+` is one level, `#` the rest including none, and a
//! wildcard in the first level never matches a topic that begins with `$`. Invariant: a filter that
//! was inserted and removed leaves no node behind.

use std::collections::HashMap;

/// The limit of the standard is 65,535 bytes; a deep filter would only cost stack here.
const MAX_LEVELS: usize = 64;

/// Values subscribed under filters, each with the number of its owner.
#[derive(Debug)]
pub(crate) struct Topics<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    /// `+` and `#` are kept under their own names: no topic level may be called so.
    children: HashMap<Box<str>, Node<T>>,
    subscribers: Vec<(u64, T)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), subscribers: Vec::new() }
    }
}

impl<T> Default for Topics<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> Topics<T> {
    /// Subscribes `owner`; an older subscription of the same owner and filter is replaced.
    pub(crate) fn insert(&mut self, filter: &str, owner: u64, value: T) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        node.subscribers.retain(|(other, _)| *other != owner);
        node.subscribers.push((owner, value));
    }

    pub(crate) fn remove(&mut self, filter: &str, owner: u64) {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.remove(&levels, owner);
    }

    /// Calls `found` for every subscription that matches; an owner with several is called each time.
    pub(crate) fn visit(&self, topic: &str, mut found: impl FnMut(u64, &T)) {
        let levels: Vec<&str> = topic.split('/').collect();
        self.root.visit(&levels, !topic.starts_with('$'), &mut found);
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.subscribers.is_empty()
    }

    fn remove(&mut self, levels: &[&str], owner: u64) {
        let Some((level, rest)) = levels.split_first() else {
            self.subscribers.retain(|(other, _)| *other != owner);
            return;
        };
        if let Some(child) = self.children.get_mut(*level) {
            child.remove(rest, owner);
            if child.is_empty() {
                self.children.remove(*level);
            }
        }
    }

    fn visit(&self, levels: &[&str], wild: bool, found: &mut impl FnMut(u64, &T)) {
        if wild && let Some(rest) = self.children.get("#") {
            rest.report(found);
        }
        let Some((level, deeper)) = levels.split_first() else {
            self.report(found);
            return;
        };
        if let Some(child) = self.children.get(*level) {
            child.visit(deeper, true, found);
        }
        if wild && let Some(child) = self.children.get("+") {
            child.visit(deeper, true, found);
        }
    }

    fn report(&self, found: &mut impl FnMut(u64, &T)) {
        for (owner, value) in &self.subscribers {
            found(*owner, value);
        }
    }
}

/// Whether a client may subscribe to this.
pub(crate) fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    !filter.is_empty()
        && !filter.contains('\0')
        && levels <= MAX_LEVELS
        && filter.split('/').enumerate().all(|(at, level)| match level {
            "#" => at + 1 == levels,
            "+" => true,
            _ => !level.contains(['+', '#']),
        })
}

/// Whether a client may publish to this.
pub(crate) fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0']) && topic.split('/').count() <= MAX_LEVELS
}

/// One filter against one topic, for retained messages and as the oracle of the trie's tests.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(topics: &Topics<()>, topic: &str) -> Vec<u64> {
        let mut owners = Vec::new();
        topics.visit(topic, |owner, ()| owners.push(owner));
        owners.sort_unstable();
        owners
    }

    #[test]
    fn the_examples_of_the_standard_hold() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
            let mut topics = Topics::default();
            topics.insert(filter, 1, ());
            assert_eq!(!found(&topics, topic).is_empty(), expected, "{filter} on {topic} in trie");
        }
    }

    #[test]
    fn wildcards_stand_alone_in_their_level() {
        for filter in ["", "a#", "#/a", "a/+b", "a/#/b", "a\0"] {
            assert!(!is_filter(filter), "{filter:?}");
        }
        for filter in ["#", "+", "a/+/b/#", "/", "ä/ö"] {
            assert!(is_filter(filter), "{filter:?}");
        }
        assert!(!is_topic("a/+") && !is_topic("") && is_topic("/"));
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just(""), Just("$s"), Just("ü")]
    }

    fn filter() -> impl Strategy<Value = String> {
        let part = prop_oneof![level(), Just("+")];
        (prop::collection::vec(part, 1..4), any::<bool>())
            .prop_map(|(levels, rest)| levels.join("/") + if rest { "/#" } else { "" })
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_one_by_one_comparison_finds(
            filters in prop::collection::vec(filter(), 0..12),
            topic in prop::collection::vec(level(), 1..5),
        ) {
            let topic = topic.join("/");
            let mut topics = Topics::default();
            for (owner, filter) in (0..).zip(&filters) {
                topics.insert(filter, owner, ());
            }
            let expected: Vec<u64> = (0..).zip(&filters)
                .filter(|(_, filter)| matches(filter, &topic)).map(|(owner, _)| owner).collect();
            prop_assert_eq!(found(&topics, &topic), expected);
            for (owner, filter) in (0..).zip(&filters) {
                topics.remove(filter, owner);
            }
            prop_assert!(topics.is_empty());
        }
    }
}
