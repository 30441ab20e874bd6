//! What was said about a run is read when those who said it are gone.

use std::time::Duration;

use serde_json::Value;
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, TOKEN, shipped};

const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    broker: Mosquitto,
    witness: Subscriber,
    deployment: Deployment,
}

impl Scene {
    async fn set() -> Self {
        let broker = Mosquitto::start();
        let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
        let mut deployment = Deployment::start().await;
        deployment.agent("one", "1").await;
        deployment.agent("two", "1").await;
        Self { broker, witness, deployment }
    }

    fn arguments(&self, command: &str, hold: &str) -> Vec<String> {
        let target = format!("broker=mqtt://{}", self.broker.addr());
        let hold = format!("hold={hold}");
        let file = shipped("telemetry.yaml");
        [command, &file, "--agents", "2", "--set", "devices=40", "--set", &hold, "--set", &target]
            .map(str::to_owned)
            .into()
    }

    async fn shoal(&self, arguments: &[String]) -> crate::deployment::Answer {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.deployment.shoal(&arguments).await
    }

    async fn lines(&self, further: &[&str]) -> Vec<Value> {
        let logs = [&["logs", "last", "--output", "json"][..], further].concat();
        let answer = self.deployment.shoal(&logs).await;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        answer.document().as_array().unwrap().clone()
    }

    /// That an agent said something, by the time it is asked for.
    async fn said(&self, agent: &str, text: &str) {
        eventually(PATIENCE, &format!("{agent} said `{text}`"), || async {
            self.lines(&["--agent", agent]).await.iter().any(|line| line["text"] == text)
        })
        .await;
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_in_the_middle_leaves_its_last_lines_and_those_of_its_successors() {
    let mut scene = Scene::set().await;
    let started = scene.shoal(&scene.arguments("start", "60s")).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    scene.witness.hears(50);
    scene.said("one", "armed").await;
    scene.deployment.kill_agent("one");

    let run = scene.deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    let lines = scene.lines(&["--agent", "one"]).await;
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["preparing", "armed"], "{lines:#?}");
    let assignment = format!("{}.one", run["run"].as_str().unwrap());
    assert_eq!(lines[1]["fields"]["assignment"], assignment, "structured fields are kept");

    let all = scene.lines(&[]).await;
    let times: Vec<u64> = all.iter().map(|line| line["at_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{all:#?}");
    let phases: Vec<&str> = all
        .iter()
        .filter(|line| line["agent"].is_null() && line["text"] == "run")
        .map(|line| line["fields"]["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["PREPARING", "ARMED", "RUNNING"], "the control plane's own: {all:#?}");
    let of = |agent: &str| all.iter().filter(|line| line["agent"] == agent).count();
    assert!(of("two") >= 2, "{all:#?}");

    // Whoever follows hears the end, and then is done.
    let follow = scene.deployment.launch_shoal(&["logs", "last", "--follow"]);
    let stopped = scene.deployment.shoal(&["stop", "last", "--abort"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let followed = follow.answer().await;
    assert_eq!(followed.code, Some(0), "{followed:?}");
    assert!(followed.stdout.contains("phase=ABORTED"), "{followed:?}");
    assert!(followed.stdout.lines().any(|line| line.contains("two") && line.contains("closed")));
    assert!(!followed.stdout.contains(TOKEN), "secrets are never logged");
}

#[tokio::test]
async fn agents_that_are_killed_the_moment_a_run_is_over_leave_their_last_lines() {
    let mut scene = Scene::set().await;
    let ran = scene.shoal(&scene.arguments("run", "1s")).await;
    scene.deployment.kill_agent("one");
    scene.deployment.kill_agent("two");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for agent in ["one", "two"] {
        scene.said(agent, "closed").await;
    }
    assert_eq!(scene.lines(&["--level", "error"]).await, Vec::<Value>::new());
    let nobody = scene.deployment.shoal(&["logs", "no-such-run"]).await;
    nobody.refused(2, "SH0403");
}
