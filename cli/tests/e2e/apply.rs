//! A run as an object: applied twice it is one run, and what runs cannot be changed.

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;

use crate::deployment::{Answer, Deployment, shipped};

async fn apply(deployment: &Deployment, file: &str, more: &[&str]) -> Answer {
    let args = [&["apply", file, "--output", "json", "--quiet"][..], more].concat();
    deployment.shoal(&args).await
}

fn did(answer: &Answer) -> (String, String, String) {
    let document = answer.document();
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    (text("did"), text("phase"), text("run"))
}

#[tokio::test]
async fn an_object_is_one_run_until_it_is_over_and_changed() {
    let broker = Mosquitto::start();
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nightly.yaml");
    let object = |hold: &str| {
        let (scenario, addr) = (shipped("telemetry.yaml"), broker.addr());
        let text = format!(
            "version: 1\nrun: nightly\nscenario: {scenario}\nlabels: {{ env: staging }}\n\
             set: {{ devices: 20, hold: {hold}, broker: \"mqtt://{addr}\" }}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    let path = file.to_str().unwrap();

    object("10m");
    let (what, _, run) = did(&apply(&deployment, path, &[]).await);
    assert_eq!(what, "started");
    let (what, phase, same) = did(&apply(&deployment, path, &[]).await);
    assert_eq!((what.as_str(), &same), ("unchanged", &run));
    assert!(["Pending", "Running"].contains(&phase.as_str()), "{phase}");

    object("1s");
    apply(&deployment, path, &[]).await.refused(2, "SH0708");
    let stopped = deployment.shoal(&["stop", &run, "--abort"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    deployment.shoal(&["watch", &run, "--quiet"]).await;

    let waited = apply(&deployment, path, &["--wait"]).await;
    let (what, phase, next) = did(&waited);
    assert_eq!((what.as_str(), phase.as_str(), waited.code), ("started", "Succeeded", Some(0)));
    assert_ne!(next, run);
    let again = apply(&deployment, path, &[]).await;
    assert_eq!(did(&again), ("unchanged".into(), "Succeeded".into(), next));

    let listed = deployment.shoal(&["list", "--label", "object=nightly", "--output", "json"]).await;
    let listed = listed.document();
    let runs: Vec<&Value> = listed.as_array().unwrap().iter().collect();
    assert_eq!(runs.len(), 2, "{runs:#?}");
    assert!(runs.iter().all(|run| run["labels"]["env"] == "staging"));
}
