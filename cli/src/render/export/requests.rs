//! The request log as CSV. The first columns are those of the per-request loggers that people use
//! with Locust, so that what reads those reads ours; the others say what Locust does not know.

use std::time::{Duration, UNIX_EPOCH};

use shoal_domain::report::RequestLogReport;
use shoal_proto::v1::LoggedRequest;

use super::super::numbers::{count, percent};
use super::csv::{Cell, Rows, maybe, number, text};

const COLUMNS: &str = "timestamp,request_type,name,response_time_ms,response_length,status_code,exception,\
    run,group,series,operation,stage,device,agent,run_s,send_lag_ms,service_time_ms,outcome,error_class";

/// What a request log holds, in a sentence.
pub(crate) fn held(log: &RequestLogReport) -> String {
    let rows = format!("{} requests, {} of all", count(log.rows), percent(log.sample_ratio));
    match log.dropped {
        0 => rows,
        n => format!("{rows}; {} more found no room", count(n)),
    }
}

pub(crate) fn header() -> String {
    Rows::new(COLUMNS).text()
}

/// Of a run of this name.
pub(crate) fn rows(run: &str, requests: &[LoggedRequest]) -> String {
    let mut rows = Rows::default();
    requests.iter().for_each(|request| rows.push(&cells(run, request)));
    rows.text()
}

fn cells(run: &str, request: &LoggedRequest) -> [Cell; 19] {
    let sent = UNIX_EPOCH + Duration::from_micros(request.sent_us);
    let exception = match request.class.as_str() {
        "" => String::new(),
        class => format!("{class}: {}", request.text),
    };
    [
        text(&humantime::format_rfc3339_micros(sent).to_string()),
        text(&request.kind),
        text(&format!("{}.{}", request.group, request.name)),
        // Nothing was intended in the closed model: it has the service time only, like Locust.
        ms(request.response_us.or(request.service_us)),
        number(request.bytes),
        maybe((request.status > 0).then_some(request.status)),
        text(&exception),
        text(run),
        text(&request.group),
        text(&request.name),
        text(&request.operation),
        text(&request.stage),
        text(&request.device),
        text(&request.agent),
        number(format!("{:.6}", request.run_us as f64 / 1e6)),
        ms(request.lag_us),
        ms(request.service_us),
        text(&request.outcome),
        text(&request.class),
    ]
}

fn ms(us: Option<u64>) -> Cell {
    maybe(us.map(|us| format!("{:.3}", us as f64 / 1e3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_row_and_texts_from_outside_do_no_harm() {
        let failed = LoggedRequest {
            sent_us: 1_764_147_600_000_001,
            run_us: 1_500_000,
            kind: "MQTT".into(),
            group: "sensors".into(),
            name: "telemetry".into(),
            operation: "publish".into(),
            stage: "hold".into(),
            device: "=cmd()".into(),
            agent: "a1".into(),
            response_us: Some(2_250),
            service_us: Some(2_000),
            lag_us: Some(250),
            bytes: 12,
            outcome: "failed".into(),
            class: "rejected".into(),
            text: "no, \"never\"".into(),
            ..LoggedRequest::default()
        };
        let sent =
            LoggedRequest { outcome: "sent".into(), status: 200, ..LoggedRequest::default() };
        assert_eq!(
            header() + &rows("calm-otter", &[failed, sent]),
            "timestamp,request_type,name,response_time_ms,response_length,status_code,exception,\
             run,group,series,operation,stage,device,agent,run_s,send_lag_ms,service_time_ms,outcome,error_class\n\
             2025-11-26T09:00:00.000001Z,MQTT,sensors.telemetry,2.250,12,,\"rejected: no, \"\"never\"\"\",\
             calm-otter,sensors,telemetry,publish,hold,'=cmd(),a1,1.500000,0.250,2.000,failed,rejected\n\
             1970-01-01T00:00:00.000000Z,,.,,0,200,,calm-otter,,,,,,,0.000000,,,sent,\n"
        );
    }
}
