//! The wire's services: convert, call, convert. Who may call is decided before anything is decoded.

mod agent_service;
mod auth;
mod comparing;
mod control_service;
mod results;

pub use agent_service::AgentApi;
pub use auth::TokenCheck;
pub use control_service::ControlApi;
