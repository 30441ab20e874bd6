//! Questions to a node of the service, and its answers: `$cbs` takes tokens, `$management` knows the
//! partitions. Each is a pair of links; one question is open at a time.

use fe2o3_amqp::link::{ReceiverAttachError, RecvError, SendError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::{self, ErrorCondition};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties, Target,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Symbol, Value};
use fe2o3_amqp::{Receiver, Sender};

/// Of a text that somebody else has written.
const MAX_TOLD: usize = 300;

pub(super) struct Rpc {
    node: &'static str,
    sender: Sender,
    receiver: Receiver,
    reply_to: String,
    n_asked: u64,
}

pub(super) struct Answer {
    code: i64,
    description: String,
    body: Body<Value>,
}

impl Rpc {
    pub(super) async fn attach(
        session: &mut SessionHandle<()>,
        node: &'static str,
    ) -> Result<Self, String> {
        let failed = |why: String| format!("{node}: {why}");
        let reply_to = format!("shoal-{}", node.trim_start_matches('$'));
        let sender = Sender::builder()
            .name(format!("{reply_to}-out"))
            .target(node)
            .attach(session)
            .await
            .map_err(|error| failed(sender_refused(&error)))?;
        let receiver = Receiver::builder()
            .name(format!("{reply_to}-in"))
            .source(node)
            .target(Target::builder().address(reply_to.as_str()).build())
            .verify_incoming_source(false)
            .verify_incoming_target(false)
            .auto_accept(true)
            .attach(session)
            .await
            .map_err(|error| failed(receiver_refused(&error)))?;
        Ok(Self { node, sender, receiver, reply_to, n_asked: 0 })
    }

    pub(super) async fn ask(
        &mut self,
        properties: &[(&str, &str)],
        body: Value,
    ) -> Result<Answer, String> {
        let node = self.node;
        self.n_asked += 1;
        let id = MessageId::String(format!("{}-{}", self.reply_to, self.n_asked));
        let text = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), SimpleValue::String((*value).to_owned()))
        };
        let properties = ApplicationProperties(properties.iter().map(text).collect());
        let question = Message::builder()
            .properties(
                Properties::builder()
                    .message_id(id.clone())
                    .reply_to(self.reply_to.as_str())
                    .build(),
            )
            .application_properties(properties)
            .body(AmqpValue(body))
            .build();
        let sent = self.sender.send(question).await;
        sent.map_err(|error| format!("{node}: {}", send_failed(&error)))?;
        loop {
            let delivery = self.receiver.recv::<Body<Value>>().await;
            let delivery = delivery.map_err(|error| format!("{node}: {}", recv_failed(&error)))?;
            let message = delivery.into_message();
            let is_to = message.properties.and_then(|properties| properties.correlation_id);
            // An answer that came too late for the one who asked.
            if is_to.is_some_and(|is_to| is_to != id) {
                continue;
            }
            let said = message.application_properties.unwrap_or_default().0;
            return Ok(Answer {
                code: number(&said, &["status-code", "statusCode"]).unwrap_or_default(),
                description: text_of(&said, &["status-description", "statusDescription"]),
                body: message.body,
            });
        }
    }
}

impl Answer {
    /// Its body, unless it refuses.
    pub(super) fn taken(self) -> Result<OrderedMap<Value, Value>, String> {
        if !(200..300).contains(&self.code) {
            let Self { code, description, .. } = self;
            return Err(match description.is_empty() {
                true => format!("status {code}"),
                false => format!("status {code}: {}", short(&description)),
            });
        }
        match self.body {
            Body::Value(AmqpValue(Value::Map(map))) => Ok(map),
            _ => Ok(OrderedMap::new()),
        }
    }
}

fn number(said: &OrderedMap<String, SimpleValue>, names: &[&str]) -> Option<i64> {
    let value = names.iter().find_map(|name| said.get(*name))?;
    match value {
        SimpleValue::Int(code) => Some(i64::from(*code)),
        SimpleValue::Long(code) => Some(*code),
        SimpleValue::Uint(code) => Some(i64::from(*code)),
        _ => None,
    }
}

fn text_of(said: &OrderedMap<String, SimpleValue>, names: &[&str]) -> String {
    match names.iter().find_map(|name| said.get(*name)) {
        Some(SimpleValue::String(text)) => text.clone(),
        _ => String::new(),
    }
}

/// What the service says of an error of its own.
pub(super) fn told(error: &definitions::Error) -> String {
    let condition = match &error.condition {
        ErrorCondition::AmqpError(known) => Symbol::from(known),
        ErrorCondition::ConnectionError(known) => Symbol::from(known),
        ErrorCondition::SessionError(known) => Symbol::from(known),
        ErrorCondition::LinkError(known) => Symbol::from(known),
        ErrorCondition::Custom(symbol) => symbol.clone(),
    };
    match &error.description {
        Some(description) => format!("{} ({})", short(description), condition.0),
        None => condition.0,
    }
}

/// Without what Azure's own support would look for.
fn short(text: &str) -> String {
    let text = text.split("TrackingId").next().unwrap_or_default();
    text.trim().trim_end_matches('.').chars().take(MAX_TOLD).collect()
}

pub(super) fn sender_refused(error: &SenderAttachError) -> String {
    match error {
        SenderAttachError::RemoteClosedWithError(error) => told(error),
        other => other.to_string(),
    }
}

pub(super) fn receiver_refused(error: &ReceiverAttachError) -> String {
    match error {
        ReceiverAttachError::RemoteClosedWithError(error) => told(error),
        other => other.to_string(),
    }
}

fn send_failed(error: &SendError) -> String {
    use fe2o3_amqp::link::DetachError::{RemoteClosedWithError, RemoteDetachedWithError};
    match error {
        SendError::LinkStateError(error) => link_ended(error),
        SendError::Detached(RemoteClosedWithError(error) | RemoteDetachedWithError(error)) => {
            told(error)
        }
        other => other.to_string(),
    }
}

pub(super) fn recv_failed(error: &RecvError) -> String {
    match error {
        RecvError::LinkStateError(error) => link_ended(error),
        other => other.to_string(),
    }
}

fn link_ended(error: &fe2o3_amqp::link::LinkStateError) -> String {
    use fe2o3_amqp::connection::ConnectionStopReason;
    use fe2o3_amqp::link::LinkStateError::{
        RemoteClosedWithError, RemoteDetachedWithError, SessionStopped,
    };
    use fe2o3_amqp::link::SessionStopReason::{ConnectionStopped, RemoteEndedWithError};
    match error {
        RemoteClosedWithError(error)
        | RemoteDetachedWithError(error)
        | SessionStopped(
            RemoteEndedWithError(error)
            | ConnectionStopped(ConnectionStopReason::RemoteClosedWithError(error)),
        ) => told(error),
        SessionStopped(_) => "the connection broke".to_owned(),
        _ => "the service closed the link".to_owned(),
    }
}
