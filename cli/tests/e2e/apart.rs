//! What takes a machine of its own: few ports, a packet filter, a disk that is full. Each of these tests starts itself again in
//! namespaces where all of that is its own, and so needs root; `just chaos` plays them.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;
use tokio::time::sleep;

use crate::deployment::Deployment;
use crate::scarcity::{TOPICS, document, is_exact, reasons, start};

/// Set where this is the inner process.
const INSIDE: &str = "SHOAL_APART";

/// `true` inside; outside it plays the test in namespaces of its own, after a shell has set them up, and fails where it fails.
fn is_apart(test: &str, set_up: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("set -e\nip link set lo up\n{set_up}\nexec \"$@\"");
    let played = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("apart::{test}"), "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        // /tmp is the database's, where its disk is small.
        .env("TMPDIR", "/var/tmp")
        .status();
    assert!(played.unwrap().success(), "{test} failed in its namespaces, which take root");
    false
}

fn run(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).status();
    assert!(ran.unwrap_or_else(|error| panic!("{program}: {error}: install it")).success());
}

/// From which the system takes the port of a connection that is opened.
fn ports(range: &str) {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
}

#[tokio::test]
#[ignore = "takes root"]
async fn ports_that_run_out_in_the_middle_are_the_generators_fault() {
    if !is_apart("ports_that_run_out_in_the_middle_are_the_generators_fault", "") {
        return;
    }
    ports("40000 49999");
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    start(&deployment, &broker, &["devices=60", "spawn_rate=10/s", "hold=8s"]).await;
    witness.hears(20);
    // Somebody leaves the machine with ten ports that nobody has yet, and gives them back.
    ports("52000 52009");
    sleep(Duration::from_secs(4)).await;
    ports("40000 49999");
    let document = document(&deployment).await;
    let told = reasons(&document, "generator_exhausted");
    assert_eq!((told.len(), &document["validity"]), (1, &Value::from("INVALID")), "{document:#}");
    let connect = crate::deployment::series(&document, "connect");
    assert!(connect["errors_by_class"]["generator_ports"].as_u64() > Some(0), "{connect:#}");
    assert_eq!(connect["errors_by_class"].as_object().unwrap().len(), 1, "{connect:#}");
    assert!(document["agents"][0]["port_errors"].as_u64() > Some(0), "{document:#}");
    is_exact(&document, &witness);
}

/// What the kernel drops on its way to or from a port.
fn drop_packets(to: &str, port: &str) {
    run("nft", &["add", "table", "inet", "cut"]);
    run("nft", &["add", "chain", "inet", "cut", "in", "{ type filter hook input priority 0 ; }"]);
    run("nft", &["add", "rule", "inet", "cut", "in", "tcp", to, port, "drop"]);
}

#[tokio::test]
#[ignore = "takes root"]
async fn packets_that_are_dropped_in_one_direction_cost_no_count() {
    if !is_apart("packets_that_are_dropped_in_one_direction_cost_no_count", "") {
        return;
    }
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    start(&deployment, &broker, &["devices=50", "hold=45s"]).await;
    witness.hears(100);
    let port = deployment.server.rsplit(':').next().unwrap().to_owned();
    for to in ["dport", "sport"] {
        drop_packets(to, &port);
        sleep(Duration::from_secs(12)).await;
        run("nft", &["delete", "table", "inet", "cut"]);
        sleep(Duration::from_secs(3)).await;
    }
    let document = document(&deployment).await;
    assert_eq!(document["validity"], "VALID", "{document:#}");
    is_exact(&document, &witness);
}

#[tokio::test]
#[ignore = "takes root"]
async fn a_disk_of_postgres_that_is_full_for_a_while_costs_no_count() {
    // Too little shared memory for a database, and a small disk in place of /tmp.
    let small = "mount -t tmpfs -o size=8m none /dev/shm\nmount -t tmpfs -o size=160m none /tmp\nchmod 1777 /tmp";
    if !is_apart("a_disk_of_postgres_that_is_full_for_a_while_costs_no_count", small) {
        return;
    }
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    start(&deployment, &broker, &["devices=50", "hold=30s"]).await;
    witness.hears(100);
    // All that is left of it, and then no block for a new row or for the log of what was written.
    let filled = Command::new("dd").args(["if=/dev/zero", "of=/tmp/full", "bs=64k"]).output();
    let said = String::from_utf8(filled.unwrap().stderr).unwrap();
    assert!(said.contains("No space left"), "{said}");
    deployment.control_plane_says("deltas wait").await;
    sleep(Duration::from_secs(10)).await;
    std::fs::remove_file("/tmp/full").unwrap();
    let document = document(&deployment).await;
    assert_eq!(document["validity"], "VALID", "{document:#}");
    is_exact(&document, &witness);
}
