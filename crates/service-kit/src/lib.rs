//! The shell that both daemons and the CLI share: clocks, tasks and their stop, back-off, logging,
//! random tokens, the limits of this machine, and the one gate every load socket passes.
//!
//! Nothing here knows what a run or a device is. The invariant: effects that a test must be able to
//! replace (time, task ownership, permission to load a target) have exactly one door, and it is here.

mod age;
pub mod backoff;
pub mod clock;
pub mod http_get;
pub mod lifecycle;
pub mod limits;
pub mod logs;
pub mod random;
pub mod target_guard;
pub mod telemetry;
pub mod traces;
pub mod usage;

pub use age::age;
pub use backoff::Backoff;
pub use clock::{Clock, SystemClock, TestClock};
pub use lifecycle::Lifecycle;
pub use target_guard::{Permit, Refused, Rule, TargetGuard};
