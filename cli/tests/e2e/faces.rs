//! One run, seen from every side: all of them count the same, the last second included.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use shoal_control_plane::store::Store;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, series, shipped};

/// Rows of a file as maps from column to cell; none of these cells has a comma.
fn rows(dir: &Path, name: &str) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let cells = line.split(',').map(str::to_owned);
            header.iter().map(|name| (*name).to_owned()).zip(cells).collect()
        })
        .collect()
}

fn scraped(addr: &str) -> String {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn every_face_of_a_run_counts_the_same_to_the_last_second() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::start().await;
    deployment.agent("one", "1").await;
    deployment.agent("two", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    // An end inside a second: its last window is a short one.
    let sets = ["--set", "devices=40", "--set", "hold=2300ms", "--set", "period=50ms"];
    let run = ["run", &file, "--agents", "2", "--set", &target, "--report", to];
    let ran = deployment.shoal(&[&run[..], &sets, &["--output", "json"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();
    let n = series(&document, "telemetry")["count"].as_u64().unwrap();
    assert_eq!(witness.all().len() as u64, n, "the target's own count");

    let whole: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("run.json")).unwrap())
            .unwrap();
    assert_eq!(series(&whole, "telemetry"), series(&document, "telemetry"));
    let course = whole["course"]["series"].as_array().unwrap();
    let position = course.iter().position(|row| row["name"] == "telemetry").unwrap();
    let course = &course[position];
    let sent = course["sent"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
    assert_eq!(sent.sum::<u64>(), n, "the course of run.json");

    let of_series = |rows: &[std::collections::BTreeMap<String, String>], column: &str| -> u64 {
        let rows = rows.iter().filter(|row| row["name"] == "telemetry");
        rows.map(|row| row[column].parse::<u64>().unwrap()).sum()
    };
    let all: Vec<_> =
        rows(dir.path(), "series.csv").into_iter().filter(|row| row["stage"] == "all").collect();
    assert_eq!(of_series(&all, "count"), n, "series.csv");
    assert_eq!(of_series(&rows(dir.path(), "course.csv"), "sent"), n, "course.csv");

    let stats = rows(dir.path(), "locust_stats.csv");
    let row = |name: &str| stats.iter().find(|row| row["Name"].ends_with(name)).unwrap();
    assert_eq!(row("telemetry")["Request Count"], n.to_string());
    assert_eq!(row("telemetry")["Type"], "MQTT");
    let size: f64 = row("telemetry")["Average Content Size"].parse().unwrap();
    assert!(size > 10.0, "{size} bytes of payload");
    let count = |row: &std::collections::BTreeMap<String, String>| {
        row["Request Count"].parse::<u64>().unwrap()
    };
    let together = count(row("Aggregated"));
    let each = stats.iter().filter(|row| row["Name"] != "Aggregated").map(count);
    assert_eq!(together, each.sum::<u64>(), "with connects and disconnects");
    assert!(together >= n + 40, "{stats:?}");
    let history = rows(dir.path(), "locust_stats_history.csv");
    assert_eq!(history.last().unwrap()["Total Request Count"], together.to_string());
    let rates = history.iter().map(|row| row["Requests/s"].parse::<f64>().unwrap());
    assert_eq!(rates.sum::<f64>().round() as u64, together, "a row a second");

    let html = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    let shown = n.to_string();
    let (thousands, rest) = shown.split_at(shown.len() - 3);
    assert!(html.contains(&format!(">{thousands},{rest}<")), "{n} in report.html");

    let metrics = scraped(&deployment.metrics);
    let counted = |name: &str| -> u64 {
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with(name) && line.contains("series=\"telemetry\""));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(counted("shoal_attempts_total{"), n, "{metrics}");
    assert_eq!(counted("shoal_response_time_seconds_count{"), n, "{metrics}");

    let store = Store::open(deployment.database_url()).await.unwrap();
    let id = document["run"].as_str().unwrap().parse().unwrap();
    let windows = store.windows_of(id, 0, 1_000).await.unwrap();
    let telemetry = windows.iter().filter(|window| window.series == position as i64);
    assert_eq!(telemetry.map(|window| window.sent as u64).sum::<u64>(), n, "the store's windows");
}
