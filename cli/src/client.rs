//! The operator API, with the token on every call and errors a person can act on.
//!
//! What the control plane refuses carries its own code and help; what the network does is told
//! apart here: nobody listens, somebody else listens, the token is wrong.

use std::time::Duration;

use shoal_proto::v1::control_service_client::ControlServiceClient;
use shoal_proto::{CODE_KEY, HELP_KEY, MAX_MESSAGE, MAX_START};
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::{Error, chain};

pub(crate) type Client = ControlServiceClient<InterceptedService<Channel, Token>>;

/// Sends `authorization: Bearer …` with every call.
#[derive(Debug, Clone)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects now, so that "cannot reach" is said before anything else is. Of several addresses with
/// commas between them the first that answers is taken: a control plane that stands by does not.
pub(crate) async fn connect(servers: &str, token: Option<&str>) -> Result<Client, Error> {
    let mut failed = None;
    for server in servers.split(',') {
        match connect_one(server.trim(), token).await {
            Err(error @ Error::Unreachable { .. }) => failed = Some(error),
            other => return other,
        }
    }
    let nobody = || Error::Unreachable { server: servers.to_owned(), why: "no address".into() };
    Err(failed.unwrap_or_else(nobody))
}

async fn connect_one(server: &str, token: Option<&str>) -> Result<Client, Error> {
    let unreachable = |error: tonic::transport::Error| unreachable(server, &chain(&error));
    let channel = Endpoint::from_shared(server.to_owned())
        .map_err(unreachable)?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect()
        .await
        .map_err(unreachable)?;
    let token = token
        .map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().map_err(|_| Error::Usage {
                    why: "the token has characters that cannot be sent".into(),
                    help: "use letters and digits; line breaks at its end come from `cat`".into(),
                })?;
            value.set_sensitive(true);
            Ok(value)
        })
        .transpose()?;
    Ok(ControlServiceClient::with_interceptor(channel, Token(token))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_START))
}

fn unreachable(server: &str, why: &str) -> Error {
    // A peer that answers the first frame with something else is not away, it is another program.
    if why.contains("http2 error") || why.contains("frame") || why.contains("protocol") {
        return Error::NotShoal { server: server.to_owned(), why: why.to_owned() };
    }
    let why = why.strip_prefix("transport error: ").unwrap_or(why);
    Error::Unreachable { server: server.to_owned(), why: why.to_owned() }
}

/// What a failed call means.
pub(crate) fn refused(server: &str, status: &Status) -> Error {
    let text = |key: &str| {
        let value = status.metadata().get(key)?;
        Some(String::from_utf8_lossy(value.as_encoded_bytes()).into_owned())
    };
    if let Some(code) = text(CODE_KEY) {
        let message = status.message().to_owned();
        return Error::Refused { code: Some(code), message, help: text(HELP_KEY) };
    }
    let server = server.to_owned();
    match status.code() {
        Code::Unavailable => unreachable(&server, &chain(status)),
        Code::Unimplemented => Error::NotShoal { server, why: "it does not know this call".into() },
        Code::Unauthenticated | Code::PermissionDenied => Error::Refused {
            code: Some("SH0402".into()),
            message: format!("{server} refused the token: {}", status.message()),
            help: Some("set SHOAL_TOKEN to the token of the control plane".into()),
        },
        Code::NotFound => Error::Refused {
            code: Some("SH0403".into()),
            message: status.message().to_owned(),
            help: Some("`shoal list` shows all runs".into()),
        },
        // The connection stands, but what comes over it is no gRPC.
        Code::Unknown | Code::Internal
            if ["transport error", "h2 protocol error"]
                .iter()
                .any(|t| status.message().contains(t)) =>
        {
            Error::NotShoal { server, why: chain(status) }
        }
        code => Error::Refused {
            code: None,
            message: format!("{server} answered {code:?}: {}", status.message()),
            help: None,
        },
    }
}

/// Whether a stream that broke so is worth trying again: the run may go on without us.
pub(crate) fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_code_and_help_of_the_control_plane() {
        let mut status = Status::not_found("no run `x`");
        status.metadata_mut().insert(CODE_KEY, "SH0403".parse().unwrap());
        status.metadata_mut().insert(HELP_KEY, "see `shoal list`".parse().unwrap());
        let error = refused("http://h:1", &status);
        assert_eq!(
            error.render(),
            "error[SH0403]: no run `x`\n  help: see `shoal list`\n  explain: shoal explain SH0403\n"
        );
    }

    #[test]
    fn a_missing_token_is_told_apart_from_a_missing_server() {
        let denied = refused("http://h:1", &Status::unauthenticated("no token"));
        assert_eq!(denied.code(), Some("SH0402"));
        let away = refused("http://h:1", &Status::unavailable("connection refused"));
        assert_eq!(away.code(), Some("SH0401"));
        let broker = refused("http://h:1", &Status::unknown("transport error"));
        assert_eq!(broker.code(), Some("SH0410"));
    }
}
