//! Values in JSON by their pointers: one pass over the text, which ends when all are found.
//!
//! Nothing is built of what stands there, and only what leads to a pointer is descended into, so
//! neither depth nor size costs more than reading. Invariant: a value that is given stands at its
//! pointer in every document that begins like this one; whether the rest is JSON is not asked.

use memchr::memchr2;

/// More levels than any document of ours has; what bounds the recursion.
pub(crate) const MAX_DEPTH: usize = 32;

/// RFC 6901.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    key: String,
    /// In an array.
    index: Option<usize>,
}

impl Pointer {
    /// `None` where it is no pointer, or goes too deep.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        if !parts.next()?.is_empty() {
            return None;
        }
        let steps: Vec<Step> = parts
            .map(|part| {
                let is_index = part == "0" || !part.is_empty() && !part.starts_with('0');
                let index = part.parse().ok().filter(|_| is_index && !part.starts_with('+'));
                Step { key: part.replace("~1", "/").replace("~0", "~"), index }
            })
            .collect();
        (steps.len() <= MAX_DEPTH).then_some(Self { steps })
    }
}

/// A value that is neither an object nor an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar<'j> {
    /// What stands between the quotes.
    Text { raw: &'j [u8], is_escaped: bool },
    /// A number, `true`, `false` or `null`: whoever reads it finds out.
    Bare(&'j [u8]),
}

/// The scalars at these pointers; the first one where a key stands twice.
pub(super) fn look_up<'j, const N: usize>(
    json: &'j [u8],
    pointers: [Option<&Pointer>; N],
) -> [Option<Scalar<'j>>; N] {
    let mut all: u32 = 0;
    for (n, pointer) in pointers.iter().enumerate() {
        all |= u32::from(pointer.is_some()) << n;
    }
    let mut scan = Scan { json, at: 0, pointers, found: [None; N], missing: all };
    if all != 0 {
        // It ends early when everything is found, and where the text is no JSON.
        let _ = scan.value(all, 0);
    }
    scan.found
}

/// Hands on each element of an array that is all there is; `None` where it is not whole.
pub(crate) fn each_element<'j>(json: &'j [u8], mut each: impl FnMut(&'j [u8])) -> Option<()> {
    let mut scan = Scan { json, at: 0, pointers: [], found: [], missing: 0 };
    scan.expect(b'[')?;
    scan.blanks();
    if scan.peek()? == b']' {
        scan.at += 1;
    } else {
        loop {
            scan.blanks();
            let start = scan.at;
            scan.member(0, 0)?;
            each(&json[start..scan.at]);
            scan.blanks();
            match scan.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
    }
    scan.blanks();
    (scan.at == json.len()).then_some(())
}

struct Scan<'j, 'p, const N: usize> {
    json: &'j [u8],
    at: usize,
    pointers: [Option<&'p Pointer>; N],
    found: [Option<Scalar<'j>>; N],
    /// One bit for each pointer.
    missing: u32,
}

impl<'j, const N: usize> Scan<'j, '_, N> {
    /// The value that begins here, `depth` steps along these pointers. `None` ends the pass.
    fn value(&mut self, along: u32, depth: usize) -> Option<()> {
        self.blanks();
        let here = self.filter(along, |steps| steps.len() == depth);
        let below = along & !here;
        match self.peek()? {
            b'{' if below != 0 => self.object(below, depth),
            b'[' if below != 0 => self.array(below, depth),
            b'{' | b'[' => self.pass_over(),
            b'"' => {
                let (raw, is_escaped) = self.string()?;
                self.keep(here, Scalar::Text { raw, is_escaped })
            }
            _ => {
                let bare = self.bare()?;
                self.keep(here, Scalar::Bare(bare))
            }
        }
    }

    fn keep(&mut self, here: u32, scalar: Scalar<'j>) -> Option<()> {
        for n in (0..N).filter(|n| here & self.missing & 1 << n != 0) {
            self.found[n] = Some(scalar);
        }
        self.missing &= !here;
        (self.missing != 0).then_some(())
    }

    fn object(&mut self, along: u32, depth: usize) -> Option<()> {
        self.at += 1;
        self.blanks();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.blanks();
            if self.peek()? != b'"' {
                return None;
            }
            let (raw, is_escaped) = self.string()?;
            let mut plain = Vec::new();
            let key = match is_escaped {
                false => raw,
                true => {
                    unescape(raw, &mut plain)?;
                    &plain
                }
            };
            self.blanks();
            self.expect(b':')?;
            let next = self.filter(along, |steps| steps[depth].key.as_bytes() == key);
            self.member(next, depth)?;
            self.blanks();
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, along: u32, depth: usize) -> Option<()> {
        self.at += 1;
        self.blanks();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        for n in 0.. {
            let next = self.filter(along, |steps| steps[depth].index == Some(n));
            self.member(next, depth)?;
            self.blanks();
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
        None
    }

    /// A value inside another one, to which these pointers lead.
    fn member(&mut self, along: u32, depth: usize) -> Option<()> {
        if along != 0 {
            return self.value(along, depth + 1);
        }
        self.blanks();
        match self.peek()? {
            b'{' | b'[' => self.pass_over(),
            b'"' => self.string().map(|_| ()),
            _ => self.bare().map(|_| ()),
        }
    }

    /// Those of the pointers of which this is true.
    fn filter(&self, along: u32, is_meant: impl Fn(&[Step]) -> bool) -> u32 {
        let mut meant = 0;
        for (n, pointer) in self.pointers.iter().enumerate() {
            if along & 1 << n != 0 && pointer.is_some_and(|pointer| is_meant(&pointer.steps)) {
                meant |= 1 << n;
            }
        }
        meant
    }

    /// An object or array that nobody asks about, whatever is in it.
    fn pass_over(&mut self) -> Option<()> {
        let mut n_open = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => n_open += 1,
                b'}' | b']' => n_open -= 1,
                _ => {}
            }
            self.at += 1;
            if n_open == 0 {
                return Some(());
            }
        }
    }

    /// What stands between the quotes here, and whether anything in it is escaped.
    fn string(&mut self) -> Option<(&'j [u8], bool)> {
        let start = self.at + 1;
        let (mut at, mut is_escaped) = (start, false);
        loop {
            at += memchr2(b'"', b'\\', self.json.get(at..)?)?;
            if self.json[at] == b'"' {
                self.at = at + 1;
                return Some((&self.json[start..at], is_escaped));
            }
            is_escaped = true;
            at += 2;
        }
    }

    fn bare(&mut self) -> Option<&'j [u8]> {
        let rest = self.json.get(self.at..)?;
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b':' | b'"' | b'{' | b'[');
        let n = rest.iter().take_while(|byte| !ends(byte) && !byte.is_ascii_whitespace()).count();
        self.at += n;
        (n > 0).then(|| &rest[..n])
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }
}

/// Appends what an escaped text means.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let escape = *rest.get(at + 1)?;
        rest = &rest[at + 2..];
        let plain = match escape {
            b'"' | b'\\' | b'/' => escape,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let c = unicode(&mut rest)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        };
        out.push(plain);
    }
    out.extend_from_slice(rest);
    Some(())
}

/// Behind `\u`: four digits, or twice four for what UTF-16 has no single unit for.
fn unicode(rest: &mut &[u8]) -> Option<char> {
    let high = unit(rest)?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high);
    }
    *rest = rest.strip_prefix(b"\\u")?;
    let low = unit(rest)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)
}

fn unit(rest: &mut &[u8]) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn at(json: &[u8], pointer: &str) -> Option<Vec<u8>> {
        let pointer = Pointer::read(pointer).unwrap();
        let [found] = look_up(json, [Some(&pointer)]);
        match found? {
            Scalar::Bare(bare) => Some(bare.to_vec()),
            Scalar::Text { raw, .. } => {
                let mut text = Vec::new();
                unescape(raw, &mut text)?;
                Some(text)
            }
        }
    }

    #[test]
    fn pointers_lead_where_rfc_6901_says() {
        let json = br#" { "foo" : ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, "i\\j": 5,
            "k\u0022l": 6, "deep": { "foo": { "x": [ {}, [], { "y": "\ud83d\ude00" } ] } }, "n": null } "#;
        let text = |pointer| at(json, pointer).map(|text| String::from_utf8(text).unwrap());
        for (pointer, expected) in [
            ("/foo/0", "bar"),
            ("/foo/1", "baz"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/m~0n", "8"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/deep/foo/x/2/y", "\u{1f600}"),
            ("/n", "null"),
        ] {
            assert_eq!(text(pointer).as_deref(), Some(expected), "{pointer}");
        }
        for nothing in ["", "/foo", "/foo/2", "/foo/00", "/foo/-", "/bar", "/deep/x", "/n/a"] {
            assert_eq!(text(nothing), None, "{nothing}");
        }
        assert_eq!(Pointer::read("a"), None);
        assert_eq!(Pointer::read(&"/a".repeat(MAX_DEPTH + 1)), None);
        assert_eq!(at(b"7", ""), Some(b"7".to_vec()));
    }

    #[test]
    fn several_are_found_in_one_pass_that_ends_with_the_last() {
        let pointers = ["/b", "/a/x", "/a/y"].map(|text| Pointer::read(text).unwrap());
        let json = br#"{"a":{"z":[1,2],"y":1,"x":2},"b":3,"#.as_slice();
        let found = look_up(json, pointers.each_ref().map(Some));
        assert_eq!(found, [&b"3"[..], b"2", b"1"].map(|bare| Some(Scalar::Bare(bare))));
    }

    #[test]
    fn depth_and_garbage_cost_no_stack() {
        let pointer = "/a".repeat(MAX_DEPTH);
        for deep in ["[", "{\"a\":", "{\"b\":["] {
            assert_eq!(at(deep.repeat(1_000_000).as_bytes(), &pointer), None);
        }
        let closed = format!("{{\"b\":{}{},\"a\":1}}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(at(closed.as_bytes(), "/a"), Some(b"1".to_vec()));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ab\"\\\\/~\u{1f600}\n0-2]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ab/~\"0-2]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn pointers(value: &Value, path: &str, into: &mut Vec<String>) {
        into.push(path.to_owned());
        match value {
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    pointers(item, &format!("{path}/{n}"), into);
                }
            }
            Value::Object(map) => {
                for (key, item) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    pointers(item, &format!("{path}/{key}"), into);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_tree_has(value in value(), is_pretty in any::<bool>()) {
            let json = match is_pretty {
                true => serde_json::to_vec_pretty(&value).unwrap(),
                false => serde_json::to_vec(&value).unwrap(),
            };
            let mut all = vec!["/a/b".to_owned(), "/0/a".to_owned()];
            pointers(&value, "", &mut all);
            for pointer in all {
                let expected = match value.pointer(&pointer) {
                    None | Some(Value::Array(_) | Value::Object(_)) => None,
                    Some(Value::String(text)) => Some(text.clone().into_bytes()),
                    Some(other) => Some(other.to_string().into_bytes()),
                };
                prop_assert_eq!(at(&json, &pointer), expected, "{}", pointer);
            }
        }

        #[test]
        fn nothing_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            near in "[\\[\\]{}:,\"\\\\aub0 \u{e9}]{0,80}",
            value in value(), cut in 0usize..200,
        ) {
            let mut json = serde_json::to_vec(&value).unwrap();
            json.truncate(cut);
            for text in [&bytes[..], near.as_bytes(), &json] {
                for pointer in ["", "/a", "/a/b/0", "/0/0/0", "/b/a"] {
                    let _ = at(text, pointer);
                }
            }
        }
    }
}
