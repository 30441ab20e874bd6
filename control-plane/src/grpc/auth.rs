//! One bearer token for agents and CLI; compared as hashes, so that time tells nothing.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::orchestrator::hash_token;
use crate::refusal::{Kind, Refusal};

#[derive(Debug, Clone)]
pub struct TokenCheck {
    /// `None`: a listener on loopback without a token.
    expected_hash: Option<String>,
}

impl TokenCheck {
    pub fn new(token: Option<&str>) -> Self {
        Self { expected_hash: token.map(hash_token) }
    }
}

impl Interceptor for TokenCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = &self.expected_hash else { return Ok(request) };
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let what = match given {
            Some(token) if hash_token(token) == *expected => return Ok(request),
            Some(_) => "the token is not this control plane's",
            None => "no token was sent",
        };
        let help =
            "set --token or SHOAL_TOKEN to the token that the control plane was started with";
        Err(Refusal::new(Kind::Denied, "SH0402", what).help(help).into())
    }
}
