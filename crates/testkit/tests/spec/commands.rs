//! Commands between devices, also where both ends are simulated by different agents.

use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, series};

const COMMANDS: &str = r#"
version: 1
name: commands
stop_timeout: 3s
targets: { broker: { mqtt: { url: builtin } } }
groups:
  meters:
    target: broker
    devices: 20
    id: meter-${index}
    on_message:
      commands:
        filter: meters/${device}/cmd
        qos: 1
        read: { id: /id, from: /from }
        reply: { after: 400ms, publish: { topic: "replies/${message.from}", qos: 1, json: { id: "${message.id}" } } }
  operators:
    target: broker
    devices: 4
    id: operator-${index}
    load: [ { hold: { for: 1s } }, { ramp: { to: 100%, over: 100ms } }, { hold: { for: 30s } } ]
    send:
      open_valve:
        every: 50ms
        command: { to: meters, topic: "meters/${to.device}/cmd", qos: 1, json: { id: "${request}", from: "${device}" }, reply: { filter: "replies/${device}", id: /id } }
load: [ { ramp: { to: 100%, over: 200ms } }, { hold: { for: 30s } } ]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_their_way_get_their_replies_when_the_run_is_stopped() {
    for agents in [1, 2] {
        let cluster = Cluster::start(agents).await;
        let run = cluster.run(COMMANDS, &[]).await;
        run.has_sent(200).await;
        run.stop().await;
        let report = run.over().await;

        assert_eq!(report.phase, Phase::Finished);
        assert_ne!(report.validity, Some(Validity::Invalid), "{report:#?}");
        let commands = series(&report, "open_valve", "all");
        let slots = commands.slots.unwrap();
        assert_eq!(slots.planned, slots.n_classed(), "{agents} agents: {slots:?}");
        assert_eq!((commands.errors, commands.acked), (0, Some(slots.sent)), "{report:#?}");
        let replies = series(&report, "commands-reply", "all");
        assert_eq!((replies.count, replies.acked), (slots.sent, Some(slots.sent)), "{replies:?}");
        assert_eq!(cluster.broker().publishes_seen(), 2 * slots.sent);
    }
}
