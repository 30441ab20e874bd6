//! `GET /healthz` for supervisors, `GET /metrics` for Prometheus: the process answers, so it lives.
//!
//! `/healthz` is 200 while the control plane is away, too: restarting an agent would not bring that
//! back, but would cost its devices.

use std::sync::Arc;

use shoal_service_kit::http_get::Page;
use shoal_service_kit::{Clock, usage};
use tokio::sync::watch;

use crate::meter::Counts;
use crate::session::SessionState;

pub(crate) struct Pages {
    pub(crate) session: watch::Receiver<SessionState>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Arc<Counts>,
}

impl Pages {
    pub(crate) fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/healthz" => Some(Page::text("text/plain", self.health())),
            "/metrics" => {
                let is_connected =
                    matches!(&*self.session.borrow(), SessionState::Connected { .. });
                let body = self.counts.page(is_connected, &usage::of_this_process());
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                Some(Page::text(content_type, body))
            }
            _ => None,
        }
    }

    fn health(&self) -> String {
        let now_us = self.clock.boot_us();
        let ago = |since_us: u64| now_us.saturating_sub(since_us) / 1_000_000;
        match &*self.session.borrow() {
            SessionState::Connected { .. } => "ok\nsession: connected\n".to_owned(),
            SessionState::Detached { since_boot_us, .. } => {
                format!("ok\nsession: detached since {} s\n", ago(*since_boot_us))
            }
            SessionState::Refused { since_boot_us, code, .. } => {
                format!("ok\nsession: refused ({code}) since {} s\n", ago(*since_boot_us))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_service_kit::TestClock;

    #[test]
    fn it_is_well_also_while_the_control_plane_is_away() {
        let away = SessionState::Detached { since_boot_us: 1_000_000, why: "cut".into() };
        let (state, session) = watch::channel(away);
        let clock = Arc::new(TestClock::at(0, 8_000_000));
        let pages = Pages { session, clock, counts: Arc::default() };
        let body = |path: &str| pages.page(path).map(|page| String::from_utf8(page.body).unwrap());
        assert_eq!(body("/healthz").unwrap(), "ok\nsession: detached since 7 s\n");
        assert!(body("/metrics").unwrap().contains("shoal_agent_connected 0\n"));
        state.send_replace(SessionState::Connected { since_boot_us: 8_000_000 });
        assert_eq!(body("/healthz").unwrap(), "ok\nsession: connected\n");
        assert!(body("/metrics").unwrap().contains("shoal_agent_connected 1\n"));
        assert_eq!(body("/"), None);
    }
}
