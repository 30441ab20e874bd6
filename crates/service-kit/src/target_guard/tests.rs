//! What the gate lets through, as a table, and that no rule text makes it panic.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn allowed(rule: &str, host: &str, addr: &str) -> bool {
    let guard = TargetGuard::allowing(vec![rule.parse().unwrap()]);
    guard.authorize(host, addr.parse().unwrap()).is_ok()
}

#[test]
fn a_rule_covers_what_it_says_and_nothing_else() {
    for (rule, host, addr, expected) in [
        ("broker.example", "broker.example", "10.0.0.1:1883", true),
        ("broker.example", "BROKER.example.", "10.0.0.1:8883", true),
        ("broker.example", "other.example", "10.0.0.1:1883", false),
        ("broker.example:1883", "broker.example", "10.0.0.1:1883", true),
        ("broker.example:1883", "broker.example", "10.0.0.1:1884", false),
        ("10.0.0.0/8", "anything", "10.200.3.4:80", true),
        ("10.0.0.0/8", "anything", "11.0.0.1:80", false),
        ("10.0.0.0/8:80", "anything", "10.0.0.1:81", false),
        ("10.0.0.7/8", "anything", "10.9.9.9:1", true),
        ("0.0.0.0/0", "anything", "8.8.8.8:53", true),
        ("0.0.0.0/0", "anything", "[2001:db8::1]:53", false),
        ("127.0.0.1", "localhost", "127.0.0.1:1883", true),
        ("127.0.0.1:1883", "localhost", "127.0.0.2:1883", false),
        ("10.0.0.0/8", "anything", "[::ffff:10.1.2.3]:80", true),
        ("::ffff:10.0.0.0/104", "anything", "10.1.2.3:80", true),
        ("2001:db8::/32", "anything", "[2001:db8:1::1]:80", true),
        ("2001:db8::/32:1883", "anything", "[2001:db8:1::1]:80", false),
        ("[2001:db8::1]:1883", "anything", "[2001:db8::1]:1883", true),
        ("[2001:db8::]/32:1883", "anything", "[2001:db8::9]:1883", true),
        ("::1", "[::1]", "[::1]:1883", true),
        ("::/0", "anything", "[2001:db8::1]:9", true),
    ] {
        assert_eq!(allowed(rule, host, addr), expected, "rule {rule}, target {host} {addr}");
    }
}

#[test]
fn a_name_in_a_rule_does_not_cover_an_address_that_only_looks_like_it() {
    assert!(!allowed("localhost", "127.0.0.1", "127.0.0.1:1883"));
}

#[test]
fn without_rules_everything_passes_and_with_an_empty_list_nothing() {
    let addr: SocketAddr = "192.0.2.1:1883".parse().unwrap();
    assert_eq!(TargetGuard::any().authorize("x", addr).unwrap().addr(), addr);
    assert!(TargetGuard::allowing(vec![]).authorize("x", addr).is_err());
}

#[test]
fn a_refusal_says_which_rule_would_allow_it() {
    let guard = TargetGuard::allowing(vec!["10.0.0.0/8".parse().unwrap()]);
    let refused = guard.authorize("broker.example", "192.0.2.1:1883".parse().unwrap()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "target broker.example (192.0.2.1:1883) is not allowed on this agent: none of its rules \
         covers it, add --allow-target broker.example:1883 where the agent is started"
    );
}

#[test]
fn unusable_rules_are_refused_with_a_reason() {
    for text in
        ["", "mqtt://x:1883", "host:0", "host:99999", "10.0.0.0/33", "x/8", "a b", "10.0.0.0/x"]
    {
        let error = text.parse::<Rule>().unwrap_err();
        assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
    }
}

proptest! {
    #[test]
    fn no_rule_text_panics_and_a_printed_rule_means_the_same(text in "\\PC{0,40}") {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }
    }

    #[test]
    fn the_suggested_rule_allows_what_was_refused(ip in any::<IpAddr>(), port in 1_u16..) {
        let addr = SocketAddr::new(ip, port);
        let refused = TargetGuard::allowing(vec![]).authorize(&ip.to_string(), addr).unwrap_err();
        prop_assert!(allowed(&refused.suggestion, &ip.to_string(), &addr.to_string()));
    }
}
