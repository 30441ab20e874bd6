//! A run while it goes on, on stderr: a bar and a calm line for people, plain lines for logs.
//!
//! A log gets one line every five seconds and one per change of phase, so it stays short and still
//! shows that something happens.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shoal_proto::v1::{ObserverProgress, RunProgress};

use super::numbers::{count, micros, rate, seconds};
use super::{clean, remark};

const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) enum Live {
    Quiet,
    /// Not a terminal: the phase and the time of the last line.
    Lines {
        phase: String,
        said: Option<tokio::time::Instant>,
    },
    Bar(ProgressBar),
}

impl Live {
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { phase: String::new(), said: None };
        }
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(4));
        let style = ProgressStyle::with_template("{prefix} {bar:40} {msg}")
            .expect("the template is a constant that a test renders");
        bar.set_style(style.progress_chars("━╸ "));
        Self::Bar(bar)
    }

    /// Something a person should know at once.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines { .. } => remark(&format!("{}\n", clean(text))),
            Self::Bar(bar) => bar.println(clean(text)),
        }
    }

    pub(crate) fn show(&mut self, progress: &RunProgress) {
        match self {
            Self::Quiet => {}
            Self::Lines { phase, said } => {
                let now = tokio::time::Instant::now();
                let due = said.is_none_or(|at| now.duration_since(at) >= LINE_EVERY);
                if due || *phase != progress.phase {
                    progress.phase.clone_into(phase);
                    *said = Some(now);
                    let line = line(progress);
                    let text =
                        if progress.over { line } else { format!("{} {line}", time(progress)) };
                    remark(&format!("{text}\n"));
                }
            }
            Self::Bar(bar) => {
                bar.set_length((progress.planned_s.max(0.0) * 1e3) as u64);
                bar.set_position((progress.elapsed_s.max(0.0) * 1e3) as u64);
                bar.set_prefix(time(progress));
                let text = line(progress);
                // The facts stand below the bar: together they rarely fit one line.
                bar.set_message(format!("\n{text}"));
            }
        }
    }

    pub(crate) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn time(progress: &RunProgress) -> String {
    format!("{} of {}", seconds(progress.elapsed_s.max(0.0)), seconds(progress.planned_s))
}

fn line(progress: &RunProgress) -> String {
    let mut parts = vec![clean(&progress.phase)];
    if progress.over {
        // The numbers follow in the document.
        if !progress.note.is_empty() {
            parts.push(clean(&progress.note));
        }
        return parts.join(" · ");
    }
    if !progress.stage.is_empty() {
        parts.push(clean(&progress.stage));
    }
    parts.push(format!(
        "{}/{} devices",
        count(progress.devices_connected),
        count(progress.devices_planned)
    ));
    if progress.devices_failed > 0 {
        parts.push(format!("{} failed", count(progress.devices_failed)));
    }
    if progress.sent > 0 {
        parts.push(format!("{} msg/s", rate(progress.sent_per_s)));
    }
    if progress.p50_us > 0 {
        let [p50, p95, p99] =
            [progress.p50_us, progress.p95_us, progress.p99_us].map(|us| micros(us as f64));
        parts.push(format!("p50 {p50}, p95 {p95}, p99 {p99}"));
    }
    parts.push(format!("{} errors, {} missed", count(progress.errors), count(progress.missed)));
    parts.extend(progress.observers.iter().filter(|observer| observer.sent > 0).map(far_end));
    if !progress.note.is_empty() {
        parts.push(clean(&progress.note));
    }
    parts.join(" · ")
}

/// What came out; of the classes those that have anything.
fn far_end(observer: &ObserverProgress) -> String {
    let mut text =
        format!("{}: {} events/s", clean(&observer.name), count(observer.received_per_s));
    if observer.samples > 0 {
        let sign = if observer.p95_us < 0 { "-" } else { "" };
        let p95 = micros(observer.p95_us.unsigned_abs() as f64);
        text.push_str(&format!(", p95 {sign}{p95}"));
    }
    for (n, what) in [
        (observer.lost, "lost"),
        (observer.undelivered, "undelivered"),
        (observer.lost_possible, "perhaps lost"),
        (observer.duplicated, "doubled"),
        (observer.out_of_order, "out of order"),
        (observer.pending, "on their way"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {} {what}", count(n)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> RunProgress {
        RunProgress {
            phase: "RUNNING".into(),
            stage: "hold".into(),
            elapsed_s: 8.0,
            planned_s: 12.0,
            devices_connected: 99,
            devices_planned: 100,
            sent_per_s: 99.0,
            sent: 700,
            p50_us: 412,
            p95_us: 1_236,
            p99_us: 2_060,
            ..RunProgress::default()
        }
    }

    #[test]
    fn a_line_says_how_far_it_is_and_how_it_goes() {
        assert_eq!(time(&progress()), "8.00 s of 12.0 s");
        assert_eq!(
            line(&progress()),
            "RUNNING · hold · 99/100 devices · 99.0 msg/s · p50 412 µs, p95 1.24 ms, p99 2.06 ms · 0 errors, 0 missed"
        );
    }

    #[test]
    fn what_came_out_stands_behind_what_went_in() {
        let observer = ObserverProgress {
            name: "ingestion".into(),
            received_per_s: 98,
            sent: 700,
            unique: 690,
            lost: 3,
            pending: 7,
            samples: 300,
            p95_us: -1_500,
            ..ObserverProgress::default()
        };
        let line = line(&RunProgress { observers: vec![observer], ..progress() });
        assert!(
            line.ends_with(" · ingestion: 98 events/s, p95 -1.50 ms, 3 lost, 7 on their way"),
            "{line}"
        );
    }

    #[test]
    fn before_anything_was_sent_only_the_wait_is_explained() {
        let waiting = RunProgress {
            phase: "PENDING".into(),
            devices_planned: 100,
            note: "waiting for 2 agents, 1 is here".into(),
            ..RunProgress::default()
        };
        assert_eq!(
            line(&waiting),
            "PENDING · 0/100 devices · 0 errors, 0 missed · waiting for 2 agents, 1 is here"
        );
    }

    #[test]
    fn the_bars_template_is_understood() {
        assert!(ProgressStyle::with_template("{prefix} {bar:40} {msg}").is_ok());
    }
}
