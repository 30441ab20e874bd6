//! The events of a body that a platform pushes: it is one, a JSON array of them, or one per line.
//!
//! Invariant: a body is taken whole or not at all, so that whoever sends it again makes no
//! duplicates.

use crate::fields;

/// How the events of a body are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An array is many, anything else is one.
    Document,
    Lines,
}

/// Why nothing of a body is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("there is no event in the body")]
    Empty,
    #[error("the body begins like a JSON array and is none")]
    Array,
}

/// Hands on every event of a body; how many there were.
pub fn each<'b>(
    body: &'b [u8],
    framing: Framing,
    mut event: impl FnMut(&'b [u8]),
) -> Result<u64, Broken> {
    let plain = body.trim_ascii();
    let mut n = 0;
    let mut one = |found: &'b [u8]| {
        n += 1;
        event(found);
    };
    match framing {
        Framing::Lines => {
            let lines = plain.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            lines.filter(|line| !line.is_empty()).for_each(&mut one);
        }
        Framing::Document if plain.starts_with(b"[") => {
            fields::each_element(plain, |_| {}).ok_or(Broken::Array)?;
            fields::each_element(plain, &mut one).ok_or(Broken::Array)?;
        }
        // Blanks around what is no text may be part of it.
        Framing::Document if !plain.is_empty() => one(body),
        Framing::Document => {}
    }
    if n == 0 { Err(Broken::Empty) } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn events(body: &str, framing: Framing) -> Result<Vec<&str>, Broken> {
        let mut found = Vec::new();
        let n = each(body.as_bytes(), framing, |event| {
            found.push(std::str::from_utf8(event).unwrap());
        })?;
        assert_eq!(n, found.len() as u64);
        Ok(found)
    }

    #[test]
    fn a_body_is_one_event_an_array_of_them_or_lines() {
        use Framing::{Document, Lines};
        assert_eq!(events("{\"a\":[1]}", Document), Ok(vec!["{\"a\":[1]}"]));
        assert_eq!(events("sh1.x", Document), Ok(vec!["sh1.x"]));
        let array = " [ {\"a\": \"],\"}, 7 ,[1,2], \"x\" ] \n";
        assert_eq!(events(array, Document), Ok(vec!["{\"a\": \"],\"}", "7", "[1,2]", "\"x\""]));
        assert_eq!(events("{}\r\n\n[1]\n", Lines), Ok(vec!["{}", "[1]"]));
        for empty in ["", " \n", "[]", "[ ]"] {
            assert_eq!(events(empty, Document), Err(Broken::Empty), "{empty}");
        }
        for broken in ["[", "[1", "[1,]", "[1 2]", "[1],", "[{]", "[\"x]", "[1]]"] {
            assert_eq!(events(broken, Document), Err(Broken::Array), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn an_array_comes_out_as_its_elements(
            values in proptest::collection::vec("\\PC{0,12}", 1..12), is_pretty: bool,
        ) {
            let array: Vec<Value> = values
                .iter()
                .enumerate()
                .map(|(n, text)| serde_json::json!({ "n": n, "text": text, "in": [[], {}] }))
                .collect();
            let body = match is_pretty {
                true => serde_json::to_string_pretty(&array).unwrap(),
                false => serde_json::to_string(&array).unwrap(),
            };
            let found = events(&body, Framing::Document).unwrap();
            let read: Vec<Value> =
                found.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
            prop_assert_eq!(read, array);
        }

        #[test]
        fn a_broken_body_hands_on_nothing(bytes in "[\\[\\]{}\",1 \n]{0,40}") {
            let mut n = 0;
            if each(bytes.as_bytes(), Framing::Document, |_| n += 1).is_err() {
                prop_assert_eq!(n, 0);
            }
        }
    }
}
