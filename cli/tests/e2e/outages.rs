//! What is in between goes away for a while: the database, or the network of an agent. Nothing that
//! was measured is lost, and a load that somebody stops does stop.

use std::time::Duration;

use serde_json::Value;
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::{Message, Subscriber};

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;

const TOPICS: &str = "devices/+/telemetry";

/// How long things are away, which is the fault itself and so real time: longer than what clients wait for an answer, shorter than a lease.
const AWAY: Duration = Duration::from_secs(15);

pub(crate) struct Scene {
    broker: Mosquitto,
    witness: Subscriber,
    pub(crate) deployment: Deployment,
}

impl Scene {
    pub(crate) async fn set() -> Self {
        let broker = Mosquitto::start();
        let witness = Subscriber::start(broker.addr(), TOPICS);
        let mut deployment = Deployment::behind_a_proxy().await;
        deployment.agent("only", "1").await;
        Self { broker, witness, deployment }
    }

    /// Started, and left to itself.
    pub(crate) async fn start(&self, hold: &str) {
        let (file, target) =
            (shipped("telemetry.yaml"), format!("broker=mqtt://{}", self.broker.addr()));
        let hold = format!("hold={hold}");
        let start = ["start", &file, "--set", "devices=50", "--set", &hold, "--set", &target];
        let started = self.deployment.shoal(&start).await;
        assert_eq!(started.code, Some(0), "{started:?}");
        self.witness.hears(100);
    }

    /// Ends VALID, with exactly what the broker's other subscriber counts and has `arrived` before.
    pub(crate) async fn is_exact(&self, mut arrived: Vec<Message>) -> Value {
        let watched = self.deployment.shoal(&["watch", "last"]).await;
        let document =
            self.deployment.shoal(&["show", "last", "--output", "json"]).await.document();
        assert_eq!(watched.code, Some(0), "{watched:?} {document:#}");
        assert_eq!(document["validity"], "VALID", "{document:#}");
        let telemetry = series(&document, "telemetry");
        arrived.extend(self.witness.all());
        assert_eq!(marks(&arrived).len(), arrived.len());
        assert_eq!(telemetry["slots"]["sent"], arrived.len(), "{document:#}");
        assert_eq!(telemetry["slots"]["planned"], arrived.len(), "{document:#}");
        assert_eq!(telemetry["acked"], arrived.len(), "{document:#}");
        assert_eq!(document["agents"][0]["totals_proved"], true, "{document:#}");
        document
    }
}

#[tokio::test]
async fn a_network_that_carries_one_direction_only_costs_no_count() {
    let scene = Scene::set().await;
    scene.start("20s").await;
    let network = scene.deployment.agents_proxy();
    network.mute(true);
    tokio::time::sleep(AWAY / 3).await;
    network.heal();
    tokio::time::sleep(AWAY / 6).await;
    network.deafen(true);
    tokio::time::sleep(AWAY / 3).await;
    network.heal();
    scene.is_exact(Vec::new()).await;
}

#[tokio::test]
async fn a_database_that_refuses_for_a_while_costs_no_count() {
    let scene = Scene::set().await;
    scene.start("25s").await;
    let database = scene.deployment.database_proxy();
    database.refuse(true);
    database.cut();
    tokio::time::sleep(AWAY).await;
    database.heal();
    scene.is_exact(Vec::new()).await;
}

#[tokio::test]
async fn a_database_that_does_not_answer_for_a_while_costs_no_count() {
    let scene = Scene::set().await;
    scene.start("25s").await;
    let database = scene.deployment.database_proxy();
    database.black_hole(true);
    tokio::time::sleep(AWAY).await;
    database.heal();
    scene.is_exact(Vec::new()).await;
}

#[tokio::test]
async fn a_run_is_stopped_while_the_database_is_away() {
    let scene = Scene::set().await;
    scene.start("120s").await;
    let database = scene.deployment.database_proxy();
    database.refuse(true);
    database.cut();
    let stopped = scene.deployment.shoal(&["stop", "last"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let arrived = scene.witness.all();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = scene.witness.all();
    assert!(later.is_empty(), "the load goes on: {} more", later.len());
    database.heal();
    let document = scene.is_exact(arrived).await;
    assert_eq!(document["cause"], "stopped_early", "{document:#}");
}

/// The run ends while the database is away, so that it stops and collects without it.
async fn ends_without_its_database(hold: &str, away: Duration) {
    let scene = Scene::set().await;
    scene.start(hold).await;
    let database = scene.deployment.database_proxy();
    database.refuse(true);
    database.cut();
    tokio::time::sleep(away).await;
    database.heal();
    scene.is_exact(Vec::new()).await;
}

#[tokio::test]
async fn a_run_that_ends_while_the_database_is_away_is_counted_when_it_is_back() {
    ends_without_its_database("6s", AWAY).await;
}

#[tokio::test]
#[ignore = "the database is away for a minute; `just chaos` runs it"]
async fn a_database_that_is_away_for_a_minute_costs_no_count() {
    ends_without_its_database("75s", Duration::from_secs(60)).await;
}

#[tokio::test]
#[ignore = "the database is away for over a minute; `just chaos` runs it"]
async fn a_run_that_loses_its_database_before_it_begins_never_sends() {
    let scene = Scene::set().await;
    scene.deployment.freeze_agent("only");
    let (file, target) =
        (shipped("telemetry.yaml"), format!("broker=mqtt://{}", scene.broker.addr()));
    let started = scene.deployment.shoal(&["start", &file, "--set", &target]).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    eventually(AWAY, "the run is prepared", || async {
        let shown = scene.deployment.shoal(&["show", "last", "--output", "json"]).await;
        shown.document()["phase"] == "PREPARING"
    })
    .await;
    let database = scene.deployment.database_proxy();
    database.refuse(true);
    database.cut();
    scene.deployment.thaw_agent("only");
    // The agents are ready at once, and it cannot be written down that they are: longer than the barrier waits.
    tokio::time::sleep(Duration::from_secs(65)).await;
    database.heal();
    let watched = scene.deployment.shoal(&["watch", "last"]).await;
    let document = scene.deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    assert_eq!(watched.code, Some(3), "{watched:?} {document:#}");
    assert_eq!(document["phase"], "FAILED_TO_START", "{document:#}");
    assert!(scene.witness.all().is_empty(), "nobody sends: {document:#}");
}

#[tokio::test]
async fn an_agent_that_is_cut_off_for_less_than_its_lease_costs_no_count() {
    let scene = Scene::set().await;
    scene.start("25s").await;
    let network = scene.deployment.agents_proxy();
    network.black_hole(true);
    tokio::time::sleep(AWAY).await;
    network.heal();
    scene.is_exact(Vec::new()).await;
}
