//! Past runs as people and pipelines use them: found again, compared, gated, pruned.

use super::{Desk, document, stderr, stdout};

/// Three runs of one scenario, oldest first; the last one with other labels.
fn three_runs(desk: &Desk) -> Vec<serde_json::Value> {
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let file = file.to_str().expect("a path of ours is text");
    let run = |label: &str| {
        let args = ["run", file, "--label", label, "--started-by", "kim", "--output", "json"];
        let mut command = desk.shoal(&args);
        let output = command.env("GITHUB_SHA", "1f6c2a9").output().expect("shoal can be started");
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        document(&output)
    };
    ["env=staging", "env=staging", "env=<b>=1+1</b>"].map(run).to_vec()
}

fn name(run: &serde_json::Value) -> &str {
    run["name"].as_str().expect("a run has a name")
}

#[test]
fn a_run_is_found_compared_gated_and_pruned() {
    let desk = Desk::new();
    let runs = three_runs(&desk);
    assert_eq!(runs[0]["labels"]["env"], "staging");
    assert_eq!((&runs[0]["started_by"], &runs[0]["revision"]), (&"kim".into(), &"1f6c2a9".into()));
    let last_event = runs[0]["events"].as_array().unwrap().last().unwrap();
    assert_eq!(last_event["kind"], "phase");

    let listed = desk.run(&["list", "--label", "env=staging", "--since", "1d", "--output", "json"]);
    let listed = document(&listed);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(name).collect();
    assert_eq!(names, [name(&runs[1]), name(&runs[0])]);
    let failed = desk.run(&["list", "--verdict", "failed", "--output", "json"]);
    assert_eq!(document(&failed), serde_json::json!([]));

    // Two against one: every run sent the same, so nothing of that differs.
    let compared = desk.run(&[
        "compare",
        name(&runs[0]),
        name(&runs[2]),
        "--repeat",
        name(&runs[1]),
        "--gate",
        "sensors.telemetry.sent >= -50%",
        "--output",
        "json",
    ]);
    assert_eq!(compared.status.code(), Some(0), "{}", stderr(&compared));
    let compared = document(&compared);
    assert_eq!((&compared["baseline"], &compared["candidate"]), (&runs[0]["run"], &runs[2]["run"]));
    let errors = compared["series"].as_array().unwrap().iter();
    let errors = errors.clone().find(|row| row["metric"] == "errors").unwrap();
    assert_eq!((&errors["difference"], &errors["judged"]), (&0.0.into(), &"no_difference".into()));
    assert_eq!(compared["gates"][0]["result"], "passed");

    let table = desk.run(&["compare", "last~1", "last", "--output", "csv"]);
    let header = stdout(&table).lines().next().map(str::to_owned).unwrap_or_default();
    for column in ["baseline_run", "candidate_run", "baseline", "candidate"] {
        assert!(header.split(',').any(|name| name == column), "{header}");
    }
    assert!(stdout(&table).contains(runs[2]["run"].as_str().unwrap()), "{}", stdout(&table));
    let none = desk.run(&["list", "--verdict", "failed", "--quiet"]);
    assert_eq!(stdout(&none), "no run fits\n");

    let gated =
        desk.run(&["compare", "last~1", "last", "--gate", "sensors.telemetry.sent >= +100%"]);
    assert_eq!(gated.status.code(), Some(1), "{}", stderr(&gated));
    assert!(
        stdout(&gated).contains("FAILED sensors.telemetry.sent >= +100%"),
        "{}",
        stdout(&gated)
    );

    let set = desk.run(&["baseline", "set", name(&runs[0]), name(&runs[1]), "--quiet"]);
    assert_eq!(set.status.code(), Some(0), "{}", stderr(&set));
    let against = desk.run(&["compare", "--baseline", "--output", "json"]);
    assert_eq!(document(&against)["baseline"], runs[0]["run"]);
    let trend = desk.run(&["trend", "sensors.telemetry.rate", "--output", "json"]);
    assert_eq!(document(&trend)["runs"].as_array().unwrap().len(), 3);

    let kept = desk.run(&["prune", name(&runs[0]), "--yes"]);
    assert_eq!(kept.status.code(), Some(2));
    assert!(stderr(&kept).contains("error[SH0702]"), "{}", stderr(&kept));
    let asked = desk.run(&["prune", "--keep", "0", "--older-than", "0s", "--output", "json"]);
    let asked = document(&asked);
    assert_eq!((name(&asked[0]), &asked[0]["deleted"]), (name(&runs[2]), &false.into()));
    let gone = desk.run(&["prune", "--keep", "0", "--older-than", "0s", "--yes"]);
    assert!(stderr(&gone).contains("1 run(s) deleted"), "{}", stderr(&gone));
    let left = document(&desk.run(&["list", "--output", "json"]));
    assert_eq!(left.as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_compared_says_why() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let text = std::fs::read_to_string(&file).unwrap();
    let output = desk.run(&["run", file.to_str().unwrap(), "--quiet"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    std::fs::write(&file, text.replace("devices: 10", "devices: 12")).unwrap();
    let output = desk.run(&["run", file.to_str().unwrap(), "--quiet"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let refused = desk.run(&["compare", "last~1", "last"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("group sensors: 10 devices against 12"),
        "{}",
        stderr(&refused)
    );
    let forced = desk.run(&["compare", "last~1", "last", "--force"]);
    assert_eq!(forced.status.code(), Some(0), "{}", stderr(&forced));
    assert!(stdout(&forced).contains("group sensors: 10 devices against 12"));
    for (args, code) in [
        (vec!["compare", "last", "nobody"], "SH0403"),
        (vec!["compare", "last~1", "last", "--gate", "x <= +1%"], "SH0706"),
        (vec!["compare", "last~1", "last", "--force", "--stage", "nowhere"], "SH0704"),
        (vec!["compare", "--baseline"], "SH0703"),
        (vec!["label", "last", "<b>=x"], "SH0602"),
    ] {
        let output = desk.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(&format!("error[{code}]")),
            "{args:?} {}",
            stderr(&output)
        );
    }
    let noted = desk.run(&["annotate", "last", "broker restarted"]);
    assert_eq!(noted.status.code(), Some(0), "{}", stderr(&noted));
    let labelled = desk.run(&["label", "last", "team=a", "env=x", "--output", "json"]);
    assert_eq!(document(&labelled)["labels"], serde_json::json!({ "env": "x", "team": "a" }));
    let shown = document(&desk.run(&["show", "last", "--output", "json"]));
    assert_eq!(shown["events"].as_array().unwrap().last().unwrap()["text"], "broker restarted");
}

#[test]
fn a_run_leaves_its_files_and_they_agree() {
    let desk = Desk::new();
    let file = desk.scenario("2s", "sensors.telemetry.errors == 0");
    let file = file.to_str().unwrap();
    let ran = desk.run(&["run", file, "--report", "out/{scenario}-{run}", "--output", "json"]);
    // Whatever the verdict: on a busy machine a run may be INVALID, and its files agree all the same.
    let ran = document(&ran);
    let dir = desk.path().join(format!("out/small-{}", name(&ran)));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let html = read("report.html");
    assert!(html.len() < 1_000_000 && html.contains(name(&ran)));
    assert!(read("junit.xml").contains("<testsuite name=\"small\""));
    assert!(read("summary.md").contains(name(&ran)));

    let exported: serde_json::Value = serde_json::from_str(&read("run.json")).unwrap();
    let whole = |list: &serde_json::Value, name: &str| {
        let series = list.as_array().unwrap().iter();
        series.clone().find(|s| s["name"] == name && s["stage"] != "ramp").unwrap().clone()
    };
    let total = whole(&ran["series"], "telemetry")["count"].as_u64().unwrap();
    let course = whole(&exported["course"]["series"], "telemetry");
    let sum: u64 = course["sent"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, total, "the last second is there too");
    let devices = exported["course"]["devices"].as_array().unwrap();
    assert!(devices.iter().any(|n| n == 10), "{devices:?}");
    let stats = read("locust_stats.csv");
    let row = stats.lines().find(|line| line.starts_with("MQTT,sensors.telemetry,")).unwrap();
    assert!(row.starts_with(&format!("MQTT,sensors.telemetry,{total},0,")), "{row}");
    let p95 = whole(&ran["series"], "telemetry")["response_time_us"]["p95"].as_u64().unwrap();
    let distribution = whole(&exported["distributions"], "telemetry");
    assert_eq!(distribution["quantiles_us"][5].as_u64(), Some(p95));
    let history = read("locust_stats_history.csv");
    let all = exported["distributions"].as_array().unwrap().last().unwrap()["count"].clone();
    let last = history.lines().last().unwrap();
    assert_eq!(last.split(',').nth(17).unwrap(), all.to_string(), "{last}");

    let junit = desk.run(&["export", "--format", "junit"]);
    assert!(stdout(&junit).starts_with("<?xml"));
    let several = desk.run(&["export"]);
    assert_eq!(several.status.code(), Some(2));
    let nowhere = desk.run(&["export", "--format", "html", "--to", "small.yaml/report.html"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(stderr(&nowhere).contains("error[SH0707]"), "{}", stderr(&nowhere));
}

#[test]
fn single_requests_go_to_a_file_and_can_be_had_later() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let file = file.to_str().unwrap();
    let args = ["run", file, "--request-log", "logs/{run}.csv", "--sample", "100%"];
    let ran = desk.shoal(&args).args(["--output", "json"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", stderr(&ran));
    let report = document(&ran);
    let counts = report["series"].as_array().unwrap().iter().filter(|row| row["stage"] == "all");
    let count: u64 = counts.map(|row| row["count"].as_u64().unwrap()).sum();
    assert_eq!(report["request_log"]["rows"], count);
    let path = desk.path().join(format!("logs/{}.csv", name(&report)));
    let csv = std::fs::read_to_string(&path).expect("the log is written");
    let header =
        "timestamp,request_type,name,response_time_ms,response_length,status_code,exception,run,";
    assert!(csv.starts_with(header), "{csv}");
    assert_eq!(csv.lines().count() as u64, count + 1);
    assert!(stderr(&ran).contains(&format!("{count} requests, 100 % of all")), "{}", stderr(&ran));
    let again = desk.run(&["export", "last", "--format", "requests", "--quiet"]);
    assert_eq!(stdout(&again), csv);

    let output = desk.run(&["run", file, "--quiet"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let none = desk.run(&["export", "last", "--format", "requests", "--to", "none.csv"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("error[SH0709]"), "{}", stderr(&none));
    assert!(!desk.path().join("none.csv").exists());
    let wrong = desk.run(&["run", file, "--sample", "200%"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}
