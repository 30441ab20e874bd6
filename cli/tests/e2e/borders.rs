//! Between a commit and its answer: the database did it or did not, and the control plane is not told, or is no more. Whatever
//! it believes, every count is there once.

use std::time::Duration;

use shoal_testkit::expect::eventually;
use shoal_testkit::faults::Lost;

use crate::outages::Scene;

/// Of every third transaction something is lost while deltas are stored and folded.
async fn transactions_lose(what: Lost) {
    let scene = Scene::set().await;
    scene.start("14s").await;
    let database = scene.deployment.database_proxy();
    database.lose(what, 3);
    let is_enough = || std::future::ready(database.n_lost() >= 5);
    eventually(Duration::from_secs(60), "transactions lost something", is_enough).await;
    database.heal();
    scene.is_exact(Vec::new()).await;
}

#[tokio::test]
async fn a_commit_that_happened_and_was_never_confirmed_counts_once() {
    transactions_lose(Lost::Answer).await;
}

#[tokio::test]
async fn a_commit_that_never_arrived_counts_once() {
    transactions_lose(Lost::Commit).await;
}

#[tokio::test]
async fn a_control_plane_that_dies_between_a_commit_and_its_acks_counts_once() {
    let mut scene = Scene::set().await;
    scene.start("14s").await;
    for what in [Lost::Answer, Lost::Commit, Lost::Answer] {
        let database = scene.deployment.database_proxy();
        let before = database.n_lost();
        database.lose(what, 1);
        let is_lost = || std::future::ready(database.n_lost() > before);
        eventually(Duration::from_secs(30), "a transaction lost something", is_lost).await;
        // Nothing was acknowledged, and nobody is left who knows of it.
        scene.deployment.kill_leader();
        scene.deployment.database_proxy().heal();
        scene.deployment.restart_control_plane().await;
    }
    scene.is_exact(Vec::new()).await;
}
