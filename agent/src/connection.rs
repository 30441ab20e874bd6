//! How the agent dials its control plane: one place for time-outs, keep-alive and the token.
//!
//! Session and uplink each hold a connection of their own, so that bulk never delays a beat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_proto::v1::agent_service_client::AgentServiceClient;
use shoal_proto::{CODE_KEY, INCARNATION_KEY, MAX_MESSAGE};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub(crate) type Client = AgentServiceClient<InterceptedService<Channel, Bearer>>;

const CONNECT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after interval plus time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Where the control plane is and how it knows this agent.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    /// At least one; all that serve are the same control plane, or one that took over from it.
    endpoints: Arc<[Endpoint]>,
    /// Which of them is tried; all clones go on together.
    current: Arc<AtomicUsize>,
    bearer: Bearer,
    /// Says whose process this is, where a call does not say it by itself.
    incarnation: Option<MetadataValue<Ascii>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadServer {
    #[error("server `{server}` is no address: {why}; write it like http://control-plane:7100")]
    Address { server: String, why: String },
    #[error("the token has characters that cannot be sent: use letters, digits and `-._~+/=`")]
    Token,
}

impl Dialer {
    /// `servers`: addresses with commas between them.
    pub(crate) fn new(servers: &str, token: Option<&str>) -> Result<Self, BadServer> {
        let endpoints: Result<Vec<Endpoint>, BadServer> =
            servers.split(',').map(|server| endpoint(server.trim())).collect();
        let header = token.map(|token| format!("Bearer {token}").parse()).transpose();
        Ok(Self {
            endpoints: endpoints?.into(),
            current: Arc::default(),
            bearer: Bearer(header.map_err(|_| BadServer::Token)?),
            incarnation: None,
        })
    }

    /// For the calls of this process of an agent.
    #[must_use]
    pub(crate) fn of(self, incarnation: &str) -> Self {
        Self { incarnation: incarnation.parse().ok(), ..self }
    }

    /// A request that says whose it is.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(incarnation) = &self.incarnation {
            request.metadata_mut().insert(INCARNATION_KEY, incarnation.clone());
        }
        request
    }

    pub(crate) async fn dial(&self) -> Result<Client, tonic::transport::Error> {
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        let channel = match self.endpoints[at].connect().await {
            Ok(channel) => channel,
            Err(error) => {
                // A standby does not listen: the next call tries the next address.
                self.current.store((at + 1) % self.endpoints.len(), Ordering::Relaxed);
                return Err(error);
            }
        };
        let client = AgentServiceClient::with_interceptor(channel, self.bearer.clone());
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }
}

fn endpoint(server: &str) -> Result<Endpoint, BadServer> {
    let refuse = |why: String| BadServer::Address { server: server.to_owned(), why };
    let uri: tonic::codegen::http::Uri =
        server.parse().map_err(|error| refuse(format!("{error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(refuse("a scheme (http or https) and a host are expected".into()));
    }
    Ok(Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// Puts the token on every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Our code of an error that the control plane answered, if it gave one.
pub(crate) fn code_of(status: &Status) -> Option<String> {
    let code = status.metadata().get(CODE_KEY)?.to_str().ok()?;
    Some(code.chars().take(16).collect())
}

/// What a call ended with, for people: tonic's own text shows its insides.
pub(crate) fn answer(status: &Status) -> String {
    match status.message() {
        "" => format!("the call ended with {:?}", status.code()),
        message => message.chars().take(500).collect(),
    }
}

/// An error with its causes on one line: tonic says "transport error" and hides the reason below.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
