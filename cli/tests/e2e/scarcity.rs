//! What runs out on our own side: room on the disk, descriptors, processors. The run says so, never the
//! target's results; and no count is lost.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;
use tokio::time::sleep;

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;

pub(crate) const TOPICS: &str = "devices/+/telemetry";

pub(crate) async fn start(deployment: &Deployment, broker: &Mosquitto, set: &[&str]) {
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let mut start = vec!["start", &file, "--set", &target];
    set.iter().for_each(|set| start.extend(["--set", set]));
    let started = deployment.shoal(&start).await;
    assert_eq!(started.code, Some(0), "{started:?}");
}

pub(crate) async fn document(deployment: &Deployment) -> Value {
    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    assert_eq!(document["phase"], "FINISHED", "{watched:?} {document:#}");
    document
}

pub(crate) fn reasons<'d>(document: &'d Value, code: &str) -> Vec<&'d Value> {
    let all = document["validity_reasons"].as_array().unwrap();
    all.iter().filter(|reason| reason["code"] == code).collect()
}

#[track_caller]
pub(crate) fn is_exact(document: &Value, witness: &Subscriber) {
    let arrived = witness.all();
    assert_eq!(marks(&arrived).len(), arrived.len(), "nothing came twice");
    let telemetry = series(document, "telemetry");
    assert_eq!(telemetry["slots"]["sent"], arrived.len(), "{document:#}");
    assert_eq!(document["agents"][0]["totals_proved"], true, "{document:#}");
    let slots = telemetry["slots"].as_object().unwrap();
    let classes = ["sent", "missed", "not_connected", "away", "unsent", "unassigned"];
    let classed: u64 = classes.iter().map(|class| slots[*class].as_u64().unwrap()).sum();
    assert_eq!(slots["planned"], classed, "{document:#}");
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_costs_no_count() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::on_a_disk().await;
    deployment.agent("only", "1").await;
    start(&deployment, &broker, &["devices=50", "hold=14s"]).await;
    witness.hears(100);
    deployment.fill_disk(true);
    sleep(Duration::from_secs(6)).await;
    // Nothing new is accepted meanwhile, and the run that goes on is not disturbed.
    let refused = deployment.shoal(&["start", &shipped("telemetry.yaml")]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    deployment.fill_disk(false);
    let document = document(&deployment).await;
    assert_eq!(document["validity"], "VALID", "{document:#}");
    is_exact(&document, &witness);
}

#[tokio::test]
async fn an_agent_without_descriptors_for_its_devices_is_not_given_them() {
    let broker = Mosquitto::start();
    let mut deployment = Deployment::start().await;
    deployment.agent_under(&["prlimit", "--nofile=150:150"], "small", "1").await;
    let target = format!("broker=mqtt://{}", broker.addr());
    let file = shipped("telemetry.yaml");
    let run = ["run", &file, "--agents-timeout", "1s", "--set", "devices=400", "--set", &target];
    let refused = deployment.shoal(&run).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let why = "SH0206: 400 devices are planned, but the agents can hold";
    assert!(refused.stderr.contains(why), "{refused:?}");
}

#[tokio::test]
async fn descriptors_that_run_out_in_the_middle_are_the_generators_fault() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let fds = || {
        let open = format!("/proc/{}/fd", deployment.agent_pid("only"));
        std::fs::read_dir(open).unwrap().count()
    };
    let idle = fds();
    start(&deployment, &broker, &["devices=60", "spawn_rate=10/s", "hold=8s"]).await;
    witness.hears(20);
    // Somebody lowers the limit to what is open just now, and raises it again.
    let pid = deployment.agent_pid("only").to_string();
    let limit = |limit: &str| {
        let limit = format!("--nofile={limit}");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    limit(&format!("{}:", idle.max(fds() - 1)));
    sleep(Duration::from_secs(3)).await;
    limit("1000:");
    let document = document(&deployment).await;
    let told = reasons(&document, "generator_exhausted");
    assert_eq!((told.len(), &document["validity"]), (1, &Value::from("INVALID")), "{document:#}");
    assert_eq!(told[0]["agent"], "only", "{document:#}");
    let span = (told[0]["from_s"].as_u64(), told[0]["to_s"].as_u64());
    let is_in_the_run = |(from, to): (u64, u64)| from < to && to <= 16;
    assert!(span.0.zip(span.1).is_some_and(is_in_the_run), "{told:?}");
    let connect = series(&document, "connect");
    assert!(connect["errors_by_class"]["generator_descriptors"].as_u64() > Some(0), "{connect:#}");
    assert_eq!(connect["errors_by_class"].as_object().unwrap().len(), 1, "{connect:#}");
    is_exact(&document, &witness);
}

/// Processes that do nothing as fast as they can.
struct Hogs(Vec<Child>);

impl Hogs {
    /// For so many seconds at the most, whatever becomes of this test.
    fn start(n: usize, seconds: u64) -> Self {
        let hog = |_| {
            let mut command = Command::new("timeout");
            command.args([&seconds.to_string(), "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..n).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.wait();
        }
    }
}

#[tokio::test]
#[ignore = "starves whatever runs beside it; `just chaos` runs it alone"]
async fn a_generator_that_is_starved_convicts_itself_and_loses_no_count() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    // Less urgent than what it shares the machine with, as beside somebody else's batch.
    deployment.agent_under(&["nice", "-n", "10"], "only", "1").await;
    start(&deployment, &broker, &["devices=200", "hold=30s"]).await;
    witness.hears(400);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let hogs = Hogs::start(8 * cores, 10);
    sleep(Duration::from_secs(10)).await;
    drop(hogs);
    let document = document(&deployment).await;
    assert_ne!(document["validity"], "VALID", "{document:#}");
    let effects = [reasons(&document, "missed_slots"), reasons(&document, "send_lag")].concat();
    let of_agent = |reason: &&&Value| reason["agent"] == "only" && reason["to_s"].is_u64();
    assert!(effects.iter().any(|reason| of_agent(&reason)), "{document:#}");
    assert!(!reasons(&document, "run_queue_delay").is_empty(), "{document:#}");
    assert!(reasons(&document, "agent_lost").is_empty(), "{document:#}");
    // Nobody was busy in it: its own processor time is no signal.
    assert!(document["agents"][0]["cpu_cores"].as_f64() < Some(0.9), "{document:#}");
    is_exact(&document, &witness);
}
