//! Subscriptions, replies and commands, with the broker's own counts as the witness.

use shoal_domain::outcome::ErrorClass;

use super::trial::{Trial, ms};

/// Two groups that talk: meters answer what operators ask.
fn talk(meters: &str, operators: &str, hold: &str) -> String {
    format!(
        "version: 1
name: talk
stop_timeout: 2s
targets: {{ broker: {{ mqtt: {{ url: builtin }} }} }}
groups:
  meters:
    target: broker
    devices: 5
    id: meter-${{index}}
    on_message:
      commands:
        filter: meters/${{device}}/cmd/+
        qos: 1
        read: {{ id: /id, from: /from }}
        reply: {{ {meters} publish: {{ topic: \"replies/${{message.from}}\", qos: 1, json: {{ id: \"${{message.id}}\", ok: true }} }} }}
  operators:
    target: broker
    devices: 2
    id: operator-${{index}}
    send:
      open_valve:
        every: 100ms
        command:
          to: meters
          topic: meters/${{to.device}}/cmd/open
          qos: 1
          json: {{ id: \"${{request}}\", from: \"${{device}}\", meter: \"${{to.index}}\" }}
          reply: {{ filter: \"replies/${{device}}\", id: /id }}
          {operators}
load: [ {{ ramp: {{ to: 100%, over: 100ms }} }}, {{ hold: {{ for: {hold} }} }} ]
"
    )
}

#[test]
fn a_command_is_measured_until_its_reply() {
    let outcome = Trial::of(&talk("after: 20ms,", "timeout: 5s", "2s")).run(|_| {});
    let commands = outcome.series("operators.open_valve");
    assert!(commands.sent >= 30, "{:?}", commands.errors);
    // The first may go to a meter that is not there yet: the broker drops them.
    let lost = commands.errors.get(&ErrorClass::OpenAtEnd).copied().unwrap_or(0);
    assert!(lost <= 4 && commands.n_errors() == lost, "{:?}", commands.errors);
    assert_eq!(commands.acked, commands.sent - lost);
    assert_eq!(commands.response_time.count(), commands.sent);
    assert!(commands.response_time.min_us().unwrap() >= 20_000);
    let received = outcome.series("meters.commands");
    assert_eq!((received.sent, received.acked, received.received), (5, 5, commands.acked));
    let replies = outcome.series("meters.commands-reply");
    assert_eq!((replies.sent, replies.acked), (commands.acked, commands.acked));
    let subscriptions = outcome.series("operators.subscribe");
    assert_eq!((subscriptions.sent, subscriptions.acked), (2, 2));
    assert_eq!(outcome.broker.publishes_seen(), commands.sent + commands.acked);
}

#[test]
fn a_command_without_a_reply_in_time_is_an_error_and_a_late_one_counts_as_acknowledged() {
    let outcome = Trial::of(&talk("after: 400ms,", "timeout: 150ms", "2s")).run(|_| {});
    let commands = outcome.series("operators.open_valve");
    let timed_out = commands.errors.get(&ErrorClass::ReplyTimeout).copied().unwrap_or(0);
    let open = commands.errors.get(&ErrorClass::OpenAtEnd).copied().unwrap_or(0);
    assert_eq!(timed_out + open, commands.sent, "{:?}", commands.errors);
    assert!(commands.acked > 0, "{:?}", commands.errors);
    assert_eq!(commands.response_time.count(), commands.sent);
}

#[test]
fn commands_of_a_lost_connection_are_errors_and_devices_listen_again_when_they_are_back() {
    let text = talk("after: 300ms,", "timeout: 5s", "3s")
        .replace(
            "    id: operator-",
            "    reconnect: { first: 50ms, max: 100ms }\n    id: operator-",
        )
        .replace("    id: meter-", "    reconnect: { first: 50ms, max: 100ms }\n    id: meter-");
    let outcome = Trial::of(&text).run(|broker| broker.at(ms(1_000)).drop_all_connections());
    let commands = outcome.series("operators.open_valve");
    assert!(commands.errors[&ErrorClass::ConnectionLost] > 0, "{:?}", commands.errors);
    assert!(commands.acked > 10, "{:?}", commands.errors);
    assert_eq!(commands.acked + commands.n_errors(), commands.sent, "{:?}", commands.errors);
    assert_eq!(outcome.series("operators.subscribe").acked, 4);
    assert_eq!(outcome.series("meters.commands").acked, 10);
}

#[test]
fn a_message_that_lacks_what_is_read_of_it_is_an_error() {
    let text = talk("", "timeout: 200ms", "1s").replace("from: /from", "from: /sender");
    let outcome = Trial::of(&text).run(|_| {});
    let received = outcome.series("meters.commands");
    assert_eq!(received.errors[&ErrorClass::Protocol], received.received);
    assert!(outcome.failures.iter().any(|failure| failure.text == "the message has no /sender"));
    assert_eq!(outcome.series("meters.commands-reply").sent, 0);
}
