//! What the stand-in says in AMQP.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SaslAnonymousMechanism,
    SessionAcceptor,
};
use fe2o3_amqp::types::definitions::{AmqpError, Error};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageAnnotations,
    Properties as AmqpProperties, Source, TargetArchetype,
};
use fe2o3_amqp::types::primitives::{Array, OrderedMap, SimpleValue, Timestamp, Value};
use fe2o3_amqp::{Receiver, Sender};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Event, GROUP, HUB, KEY, POLICY, Shared, access};

const SELECTOR: &str = "apache.org:selector-filter:string";
/// How often it looks whether a token has ended.
const TICK: Duration = Duration::from_millis(100);

type Answer = Message<AmqpValue<Value>>;
type Answers = (mpsc::Sender<Answer>, Option<mpsc::Receiver<Answer>>);

pub(super) async fn serve(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
    let mut visitors = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let also = stream.into_std().and_then(|stream| {
            let also = stream.try_clone()?;
            Ok((tokio::net::TcpStream::from_std(stream)?, also))
        });
        let Ok((stream, also)) = also else { continue };
        {
            let mut log = shared.lock();
            if log.is_away {
                continue;
            }
            log.connections.push(also);
        }
        shared.n_connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        visitors.spawn(async move {
            match shared.tls.clone() {
                None => visit(shared, stream).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        visit(shared, stream).await;
                    }
                }
            }
        });
    }
}

async fn visit<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let acceptor = ConnectionAcceptor::builder()
        .container_id("stand-in")
        .sasl_acceptor(SaslAnonymousMechanism::new())
        .build();
    let Ok(mut connection) = acceptor.accept(stream).await else { return };
    // Until when (Unix time) this connection may read.
    let until = Arc::new(AtomicU64::new(0));
    let acceptor = SessionAcceptor::new();
    let mut sessions = JoinSet::new();
    while let Ok(session) = acceptor.accept(&mut connection).await {
        sessions.spawn(converse(Arc::clone(&shared), session, Arc::clone(&until)));
    }
}

async fn converse(shared: Arc<Shared>, mut session: ListenerSessionHandle, until: Arc<AtomicU64>) {
    let mut answers: HashMap<String, Answers> = HashMap::new();
    let mut links = JoinSet::new();
    while let Some(attach) = session.next_incoming_attach().await {
        let source = attach.source.as_deref().cloned();
        let target = match attach.target.as_deref() {
            Some(TargetArchetype::Target(target)) => target.address.clone(),
            _ => None,
        };
        let from = source.as_ref().and_then(|source| source.address.clone());
        let accepted = LinkAcceptor::new().accept_incoming_attach(attach, &mut session).await;
        let node = |name: Option<String>| name.filter(|name| name.starts_with('$'));
        match accepted {
            Ok(LinkEndpoint::Receiver(receiver)) => {
                let Some(node) = node(target) else { continue };
                let all = answers.entry(node.clone()).or_insert_with(both);
                let (shared, until) = (Arc::clone(&shared), Arc::clone(&until));
                links.spawn(hear(shared, receiver, node, all.0.clone(), until));
            }
            Ok(LinkEndpoint::Sender(sender)) => match node(from) {
                Some(node) => {
                    let all = answers.entry(node).or_insert_with(both);
                    if let Some(answers) = all.1.take() {
                        links.spawn(answer(sender, answers));
                    }
                }
                None => {
                    let (shared, until) = (Arc::clone(&shared), Arc::clone(&until));
                    links.spawn(send(shared, sender, source.unwrap_or_default(), until));
                }
            },
            Err(_) => return,
        }
    }
}

fn both() -> Answers {
    let (sender, receiver) = mpsc::channel(64);
    (sender, Some(receiver))
}

async fn answer(mut sender: Sender, mut answers: mpsc::Receiver<Answer>) {
    while let Some(answer) = answers.recv().await {
        if sender.send(answer).await.is_err() {
            return;
        }
    }
}

async fn hear(
    shared: Arc<Shared>,
    mut receiver: Receiver,
    node: String,
    answers: mpsc::Sender<Answer>,
    until: Arc<AtomicU64>,
) {
    while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
        if receiver.accept(&delivery).await.is_err() {
            return;
        }
        let message = delivery.into_message();
        let said = message.application_properties.unwrap_or_default();
        let said = |name: &str| match said.0.get(name) {
            Some(SimpleValue::String(text)) => text.clone(),
            _ => String::new(),
        };
        let (code, why, body) = match (node.as_str(), message.body) {
            ("$cbs", Body::Value(AmqpValue(Value::String(token)))) => {
                let resource = format!("amqps://localhost/{HUB}");
                match access::judge(&token, &resource, (POLICY, KEY)) {
                    // A token for another hub opens that one.
                    Err(why) if why.starts_with("InvalidAudience") => {
                        (202, "Accepted".to_owned(), Value::Null)
                    }
                    Ok(end) => {
                        until.store(end, Ordering::SeqCst);
                        shared.n_tokens.fetch_add(1, Ordering::SeqCst);
                        (202, "Accepted".to_owned(), Value::Null)
                    }
                    Err(why) => (401, format!("{why} TrackingId:0, Timestamp:0"), Value::Null),
                }
            }
            ("$management", _) if said("name") != HUB => {
                let name = said("name");
                let why = format!(
                    "The messaging entity 'sb://localhost/{name}' could not be found. \
                     TrackingId:0, Timestamp:0"
                );
                (404, why, Value::Null)
            }
            ("$management", _) => (200, "OK".to_owned(), known(&shared, &said("partition"))),
            _ => (400, "a question that nobody knows".to_owned(), Value::Null),
        };
        let properties = ApplicationProperties(
            [
                ("status-code".to_owned(), SimpleValue::Int(code)),
                ("status-description".to_owned(), SimpleValue::String(why)),
            ]
            .into_iter()
            .collect(),
        );
        let mut beside = AmqpProperties::new();
        beside.correlation_id = message.properties.and_then(|asked| asked.message_id);
        let answer = Message::builder()
            .properties(beside)
            .application_properties(properties)
            .body(AmqpValue(body))
            .build();
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// Of a partition, or of the hub where none is named.
fn known(shared: &Shared, partition: &str) -> Value {
    let log = shared.lock();
    let text = |text: &str| Value::String(text.to_owned());
    let map = |all: Vec<(&str, Value)>| {
        let all = all.into_iter().map(|(name, value)| (text(name), value));
        Value::Map(all.collect::<OrderedMap<_, _>>())
    };
    let Some(known) = partition.parse().ok().and_then(|n: usize| log.partitions.get(n)) else {
        let n = log.partitions.len();
        let ids = (0..n).map(|id| text(&id.to_string())).collect::<Vec<_>>();
        return map(vec![
            ("name", text(HUB)),
            ("created_at", Value::Timestamp(Timestamp::from_milliseconds(0))),
            ("partition_count", Value::Int(n as i32)),
            ("partition_ids", Value::Array(Array(ids))),
        ]);
    };
    let last = known.events.last();
    map(vec![
        ("name", text(HUB)),
        ("partition", text(partition)),
        ("begin_sequence_number", Value::Long(known.begin)),
        ("last_enqueued_sequence_number", Value::Long(known.end - 1)),
        ("last_enqueued_offset", text(&(known.end - 1).to_string())),
        (
            "last_enqueued_time_utc",
            Value::Timestamp(Timestamp::from_milliseconds(
                last.map_or(0, |event| event.enqueued_ms),
            )),
        ),
        ("is_partition_empty", Value::Bool(known.begin == known.end)),
    ])
}

/// One link to a partition.
async fn send(shared: Arc<Shared>, mut sender: Sender, source: Source, until: Arc<AtomicU64>) {
    let (partition, mut next) = match asked(&shared, &source) {
        Ok(asked) => asked,
        Err(why) => {
            let error = Error::new(AmqpError::NotFound, format!("{why} TrackingId:0"), None);
            // Whoever asked may be gone.
            drop(sender.close_with_error(error).await);
            return;
        }
    };
    let mut changed = shared.changed.subscribe();
    loop {
        if until.load(Ordering::SeqCst) <= access::now_s() {
            let why = "ExpiredToken: The token is expired.".to_owned();
            let error = Error::new(AmqpError::UnauthorizedAccess, why, None);
            drop(sender.close_with_error(error).await);
            return;
        }
        changed.mark_unchanged();
        let events = shared.events(partition, next);
        if events.is_empty() {
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(TICK) => {}
                _ = sender.on_detach() => return,
            }
            continue;
        }
        for event in events {
            next = event.sequence + 1;
            if sender.send(message(&event)).await.is_err() {
                return;
            }
        }
    }
}

/// Which partition a link is to, and its first number.
fn asked(shared: &Shared, source: &Source) -> Result<(usize, i64), String> {
    let address = source.address.clone().unwrap_or_default();
    let unknown = || format!("The messaging entity '{address}' could not be found.");
    let parts: Vec<&str> = address.split('/').collect();
    let [HUB, "ConsumerGroups", group, "Partitions", partition] = parts[..] else {
        return Err(unknown());
    };
    let n = partition.parse().ok().filter(|n: &usize| *n < shared.lock().partitions.len());
    let Some(partition) = n.filter(|_| ["$Default", GROUP].contains(&group)) else {
        return Err(unknown());
    };
    let filter = source.filter.iter().flat_map(|all| all.iter());
    let selector =
        filter.filter(|(name, _)| name.0 == SELECTOR).find_map(|(_, value)| match value {
            Value::Described(described) => match &described.value {
                Value::String(text) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        });
    let behind = selector.as_deref().and_then(|text| {
        text.strip_prefix("amqp.annotation.x-opt-sequence-number > '")?
            .strip_suffix('\'')?
            .parse::<i64>()
            .ok()
    });
    let behind = behind.ok_or_else(|| format!("not a selector: {selector:?}"))?;
    Ok((partition, behind + 1))
}

fn message(event: &Event) -> Message<Data> {
    let annotations = MessageAnnotations::builder()
        .insert("x-opt-sequence-number", Value::Long(event.sequence))
        .insert("x-opt-offset", Value::String((event.sequence * 100).to_string()))
        .insert(
            "x-opt-enqueued-time",
            Value::Timestamp(Timestamp::from_milliseconds(event.enqueued_ms)),
        )
        .build();
    let text = |(name, text): &(String, String)| (name.clone(), SimpleValue::String(text.clone()));
    let properties = ApplicationProperties(event.properties.iter().map(text).collect());
    Message::builder()
        .message_annotations(annotations)
        .application_properties(properties)
        .body(Data(event.body.clone().into()))
        .build()
}
