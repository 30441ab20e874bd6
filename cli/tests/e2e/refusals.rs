//! What goes wrong before or instead of a run: each mistake has its exit code and its error code.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;

use crate::deployment::{Answer, Deployment, series, shipped};

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let deployment = Deployment::start().await;
    for args in [vec!["list"], vec!["run", &shipped("telemetry.yaml")]] {
        deployment.shoal_with("another-token", &args).await.refused(2, "SH0402");
    }
    deployment.shoal_with("", &["list"]).await.refused(2, "SH0402");
}

#[tokio::test]
async fn without_agents_there_is_no_run() {
    let mut deployment = Deployment::start().await;
    let file = shipped("telemetry.yaml");
    let args = ["run", &file, "--agents", "2", "--agents-timeout", "1s", "--output", "json"];
    never_started(&deployment.shoal(&args).await, 2, "SH0201");
    deployment.agent("only", "1").await;
    never_started(&deployment.shoal(&args).await, 2, "SH0202");
}

/// Both who watches and who reads the document are told the code.
#[track_caller]
fn never_started(ran: &Answer, exit: i32, code: &str) {
    assert_eq!(ran.code, Some(exit), "{ran:?}");
    assert!(ran.stderr.contains(code), "{ran:?}");
    let document = ran.document();
    assert_eq!(document["phase"], "FAILED_TO_START", "{document:#}");
    assert!(document["cause"].as_str().unwrap().contains(code), "{document:#}");
    assert_eq!((&document["validity"], &document["verdict"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn an_unknown_run_is_named_so() {
    let deployment = Deployment::start().await;
    for args in [["show", "nope"], ["watch", "nope"], ["stop", "nope"], ["show", "last"]] {
        deployment.shoal(&args).await.refused(2, "SH0403");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_target_that_cannot_be_reached() {
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let target = format!("broker=mqtt://127.0.0.1:{}", closed_port());
    let file = shipped("telemetry.yaml");
    let ran = deployment.shoal(&["run", &file, "--set", &target, "--output", "json"]).await;
    never_started(&ran, 3, "SH0301");
}

/// Nobody listens there; it was free a moment ago.
fn closed_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn devices_that_the_broker_refuses_fail_the_run() {
    let broker = Mosquitto::with_login("meter", "secret");
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let ran = deployment
        .shoal(&[
            "run",
            &file,
            "--set",
            "devices=20",
            "--set",
            "hold=2s",
            "--set",
            &target,
            "--output",
            "json",
        ])
        .await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let document = ran.document();
    assert_eq!(document["phase"], "FINISHED", "{document:#}");
    assert_eq!(document["devices"]["failed"], 20, "{document:#}");
    let slots = &series(&document, "telemetry")["slots"];
    assert_eq!(slots["planned"], slots["not_connected"], "{document:#}");
    assert_eq!(document["verdict"], "FAILED");
    assert_eq!(document["failures"][0]["class"], "not_authorized", "{document:#}");
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let addr = deployment.server.strip_prefix("http://").unwrap().to_owned();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame_of_16_mib = b"\xff\xff\xff\x00\x00\x00\x00\x00\x01";
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 4096],
        (0..=255).cycle().take(100_000).collect(),
        preface.to_vec(),
        [&preface[..], &frame_of_16_mib[..]].concat(),
    ] {
        let mut connection = TcpStream::connect(&addr).unwrap();
        // It may be closed on us while we write, which is what we want.
        let _ = connection.write_all(&bytes);
    }
    let listed = deployment.shoal(&["agent", "list", "--output", "json"]).await;
    assert_eq!(listed.document()[0]["state"], "connected", "{listed:?}");
}

#[tokio::test]
async fn a_second_agent_of_the_same_name_is_refused_and_the_first_stays() {
    let mut deployment = Deployment::start().await;
    deployment.agent("twin", "1").await;
    let second = deployment.launch("twin", "another-directory", "1");
    second.says("SH0406").await;
    let listed = deployment.shoal(&["agent", "list", "--output", "json"]).await.document();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["state"], "connected");
}

#[tokio::test]
async fn a_second_agent_in_the_same_directory_does_not_start() {
    let mut deployment = Deployment::start().await;
    deployment.agent("one", "1").await;
    let mut second = deployment.launch("other", "one", "1");
    assert_eq!(second.ended().await.code(), Some(2));
    assert!(second.log().contains("error[SH0407]"), "{}", second.log());
}
