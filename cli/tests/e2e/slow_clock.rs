//! Agents whose machines do not agree on the time.

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;

use crate::deployment::{Deployment, shipped};

/// All clocks of the process, also those that are said never to step, are two seconds behind: what
/// another machine looks like.
const SLOW: [&str; 3] = ["env", "FAKETIME=-2s", "LD_PRELOAD=libfaketime.so.1"];
const SLOW_US: i64 = -2_000_000;

#[tokio::test]
async fn an_agent_that_is_two_seconds_slow_is_said_to_be_and_its_delays_are_right() {
    let broker = Mosquitto::start();
    let mut deployment = Deployment::on_a_disk().await;
    deployment.agent("right", "1").await;
    let libraries = format!("LD_LIBRARY_PATH={}", faketime());
    let wrapper = [&SLOW[..1], &[libraries.as_str()], &SLOW[1..]].concat();
    deployment.agent_under(&wrapper, "slow", "1").await;

    let url = format!("mqtt://{}", broker.addr());
    let (target, output) = (format!("broker={url}"), format!("output_broker={url}"));
    let file = shipped("ingestion-mqtt.yaml");
    let mut args = vec!["run", &file, "--agents", "2", "--by", "agent", "--output", "json"];
    for set in [&target, &output, "output_filter=devices/+/telemetry", "devices=60", "hold=4s"] {
        args.extend(["--set", set]);
    }
    let ran = deployment.shoal(&args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();

    let agents = document["agents"].as_array().unwrap();
    for (name, off_us) in [("right", 0), ("slow", SLOW_US)] {
        let agent = agents.iter().find(|agent| agent["agent"] == name).unwrap();
        let found = agent["clock_offset_us"].as_i64().unwrap();
        // Three readings of clocks, one after the other, are no instant on a busy machine.
        let bound = agent["clock_bound_us"].as_i64().unwrap() + 50_000;
        assert!((found - off_us).abs() <= bound, "{name}: {found} ± {bound}");
    }

    // One agent reads what both send: the half of another clock is as late as its own.
    let seen = &document["observers"][0];
    let (sent, bound) = (seen["sent"].as_i64().unwrap(), seen["clock_bound_us"].as_i64().unwrap());
    assert!(sent > 100 && seen["lost"] == 0 && seen["unique"] == sent, "{seen:#}");
    assert!(bound > 0 && bound < 500_000, "{seen:#}");
    let delay = &seen["end_to_end_delay_us"];
    let of = |stat: &str| delay[stat].as_i64().unwrap();
    assert_eq!(of("count"), sent);
    assert!(of("min") > -bound && of("max") < 1_500_000, "{delay:#}");
    let parts = document["parts"].as_array().unwrap();
    let by = |name: &str| -> &Value {
        let part = parts.iter().find(|part| part["name"] == name).unwrap();
        &part["observers"][0]
    };
    let sum = |field: &str| -> i64 {
        ["right", "slow"].iter().map(|name| by(name)[field].as_i64().unwrap()).sum()
    };
    assert!(by("right")["sent"].as_i64() > Some(0) && by("slow")["sent"].as_i64() > Some(0));
    assert_eq!((sum("sent"), sum("unique"), sum("received")), (sent, sent, sent), "{parts:#?}");

    let shown = deployment.shoal(&["show", "last"]).await;
    let line = "agent slow: its own clock is 2.0";
    assert!(shown.stdout.contains(line) && shown.stdout.contains(" slow (± "), "{}", shown.stdout);
}

/// The directory of Debian's library; it needs no compiler and no root.
fn faketime() -> String {
    let found = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let dirs = found.map(|dir| dir.path().join("faketime"));
    let dir = dirs.into_iter().find(|dir| dir.join("libfaketime.so.1").is_file());
    dir.expect("libfaketime is installed").to_str().unwrap().to_owned()
}
