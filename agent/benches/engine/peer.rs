//! The obvious alternative: one rumqttc `AsyncClient` with its event loop per device.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, MqttOptions, QoS};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::{CONNECTIONS, PAYLOAD, RATE};

const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn publish(addr: SocketAddr, qos: u8) -> f64 {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    std::thread::spawn(move || drive(addr, CONNECTIONS, Some((qos, counter))));
    std::thread::sleep(SETTLE);
    crate::measure(|| sent.load(Ordering::Relaxed))
}

pub(crate) fn idle(addr: SocketAddr, n: u64) -> f64 {
    std::thread::spawn(move || drive(addr, n, None));
    std::thread::sleep(SETTLE + Duration::from_secs(2));
    crate::resident_bytes()
}

fn drive(addr: SocketAddr, n: u64, publish: Option<(QoS, Arc<AtomicU64>)>) {
    shoal_service_kit::limits::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime starts"), async {
        let start = Instant::now();
        let publish = publish.map(Rc::new);
        for i in 0..n {
            let mut options =
                MqttOptions::new(format!("peer-{i}"), addr.ip().to_string(), addr.port());
            options.set_keep_alive(Duration::from_secs(60)).set_inflight(10);
            let (client, mut events) = AsyncClient::new(options, 10);
            tokio::task::spawn_local(async move { while events.poll().await.is_ok() {} });
            if let Some(publish) = publish.clone() {
                tokio::task::spawn_local(talk(client, i, start, publish));
            } else {
                std::mem::forget(client);
            }
            tokio::time::sleep_until(start + Duration::from_micros(i * 2_000_000 / n)).await;
        }
        std::future::pending::<()>().await;
    });
}

async fn talk(client: AsyncClient, i: u64, start: Instant, publish: Rc<(QoS, Arc<AtomicU64>)>) {
    let period = Duration::from_millis(1_000 / RATE);
    let mut due = start + Duration::from_secs(3) + period * i as u32 / CONNECTIONS as u32;
    let topic = format!("devices/peer-{i}/telemetry");
    loop {
        tokio::time::sleep_until(due).await;
        let payload = vec![b'x'; PAYLOAD];
        if client.publish(topic.as_str(), publish.0, false, payload).await.is_err() {
            return;
        }
        publish.1.fetch_add(1, Ordering::Relaxed);
        due += period;
    }
}
