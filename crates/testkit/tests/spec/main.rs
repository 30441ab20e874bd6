//! What the product promises, one promise a test, on a whole system in one process.
//!
//! The oracle is the broker: what it counted must be what the document says.

mod agents;
mod commands;
mod counting;
mod eventhubs;
mod files;
mod hostile;
mod http;
mod http_load;
mod kafka;
mod mosquitto;
mod nats;
mod observers;
mod own_protocol;
mod poison;
mod readiness;
mod reading;
mod request_log;
mod shipped;
mod sparkplug;
mod target;
mod thresholds;
mod webhook;

/// Twenty devices that send ten times a second, over the vars `hold` and `devices`.
const STEADY: &str = r#"
version: 1
name: steady
vars: { devices: 20, hold: 2s, max_in_flight: 10 }
targets:
  broker: { mqtt: { url: builtin, protocol: 3.1.1, keep_alive: 60s } }
groups:
  sensors:
    target: broker
    devices: ${vars.devices}
    id: sensor-${index}
    max_in_flight: ${vars.max_in_flight}
    send:
      telemetry:
        every: 100ms
        publish: { topic: "d/${device}", qos: 1, json: { trace: "${stamp}" } }
load:
  - ramp: { to: 100%, over: 200ms }
  - hold: { for: "${vars.hold}" }
"#;
