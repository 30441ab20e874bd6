//! One connection to a namespace: dialled, let in by a token, with a link for each partition that is
//! read. Whoever holds it renews the token before it ends.

use std::time::Duration;

use fe2o3_amqp::connection::{ConnectionHandle, OpenError};
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::SenderSettleMode;
use fe2o3_amqp::types::messaging;
use fe2o3_amqp::types::primitives::{OrderedMap, Symbol, Value};
use fe2o3_amqp::{Connection, Receiver, Session};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use shoal_domain::eventhubs::Access;
use shoal_domain::sas;
use shoal_service_kit::{Clock as _, SystemClock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::dial;
use super::Source;
use super::rpc::{Rpc, receiver_refused};
use super::watched::Watched;

/// Event Hubs gives up a connection after a minute; so do we.
const IDLE_MS: u32 = 60_000;
/// Events on their way on each link: what an answer takes is what they hide.
const CREDIT: u32 = 500;
/// More than any tier of Event Hubs takes in.
const MAX_EVENT: u64 = 32 * 1024 * 1024;
const SELECTOR: &str = "apache.org:selector-filter:string";

pub(super) struct Hub {
    hub: String,
    group: String,
    /// How long a token is good for; `None`: it is somebody else's, and not renewed.
    renews_every: Option<Duration>,
    pub(super) renew_at: Option<Instant>,
    cbs: Rpc,
    management: Rpc,
    session: SessionHandle<()>,
    /// Closes when it is dropped.
    _connection: ConnectionHandle<()>,
}

/// What the service says of a partition: the first event that is there, and the next that will be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl Hub {
    /// `ended` is cancelled when the connection is gone.
    pub(super) async fn open(source: &Source, ended: CancellationToken) -> Result<Self, String> {
        let (host, port) = &source.dialled;
        let failed = |why: String| format!("{host}:{port}: {why}");
        let stream = dial::connect(&source.guard, source.tls.as_ref(), host, *port).await;
        let stream = Watched::new(stream.map_err(failed)?, ended);
        let id = format!("shoal-{}-{}", source.hub, source.share);
        let connection = Connection::builder()
            .container_id(id)
            .hostname(source.connection.host.as_str())
            .idle_time_out(IDLE_MS)
            .sasl_profile(SaslProfile::Anonymous)
            .open_with_stream(stream)
            .await;
        let mut connection = connection.map_err(|error| failed(refused(&error)))?;
        let session = Session::begin(&mut connection).await;
        let mut session = session.map_err(|error| failed(error.to_string()))?;
        let mut cbs = Rpc::attach(&mut session, "$cbs").await.map_err(failed)?;
        put_token(source, &mut cbs).await.map_err(failed)?;
        let management = Rpc::attach(&mut session, "$management").await.map_err(failed)?;
        let renews_every = match source.connection.access {
            Access::Policy { .. } => {
                Some(Duration::from_micros(sas::renew_after_us(source.token_life_us)))
            }
            Access::Token(_) => None,
        };
        Ok(Self {
            hub: source.hub.clone(),
            group: source.consumer_group.clone(),
            renews_every,
            renew_at: renews_every.map(|every| Instant::now() + every),
            cbs,
            management,
            session,
            _connection: connection,
        })
    }

    pub(super) async fn renew(&mut self, source: &Source) -> Result<(), String> {
        put_token(source, &mut self.cbs).await?;
        self.renew_at = self.renews_every.map(|every| Instant::now() + every);
        Ok(())
    }

    /// The partitions that there are.
    pub(super) async fn partitions(&mut self) -> Result<Vec<u32>, String> {
        let hub = &self.hub;
        let question =
            [("operation", "READ"), ("name", hub.as_str()), ("type", "com.microsoft:eventhub")];
        let answer = self.management.ask(&question, Value::Null).await?;
        let found = answer.taken().map_err(|why| format!("event hub {hub}: {why}"))?;
        let ids = match found.get(&Value::String("partition_ids".to_owned())) {
            Some(Value::Array(ids)) => ids.0.clone(),
            Some(Value::List(ids)) => ids.clone(),
            _ => return Err(format!("event hub {hub}: it does not say which partitions it has")),
        };
        let number = |id: &Value| match id {
            Value::String(id) => {
                id.parse().map_err(|_| format!("event hub {hub}: its partition {id} has no number"))
            }
            _ => Err(format!("event hub {hub}: a partition has no name")),
        };
        ids.iter().map(number).collect()
    }

    pub(super) async fn extent(&mut self, partition: u32) -> Result<Extent, String> {
        let id = partition.to_string();
        let question = [
            ("operation", "READ"),
            ("name", self.hub.as_str()),
            ("type", "com.microsoft:partition"),
            ("partition", id.as_str()),
        ];
        let answer = self.management.ask(&question, Value::Null).await?;
        let found = answer.taken().map_err(|why| format!("partition {partition}: {why}"))?;
        let number = |name: &str| match found.get(&Value::String(name.to_owned())) {
            Some(Value::Long(number)) => Ok(*number),
            _ => Err(format!("partition {partition}: the service does not say its `{name}`")),
        };
        // An empty one ends at -1.
        let end = number("last_enqueued_sequence_number")?.saturating_add(1);
        let begin = number("begin_sequence_number")?;
        let fits = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(Extent { begin: fits(begin), end: fits(end) })
    }

    /// A link that brings everything from `next` on.
    pub(super) async fn read_from(
        &mut self,
        partition: u32,
        next: u64,
    ) -> Result<Receiver, String> {
        let address = format!("{}/ConsumerGroups/{}/Partitions/{partition}", self.hub, self.group);
        let behind = i128::from(next) - 1;
        let selected = format!("amqp.annotation.x-opt-sequence-number > '{behind}'");
        let filter = Described {
            descriptor: Descriptor::Name(Symbol::from(SELECTOR)),
            value: Value::String(selected),
        };
        let from =
            messaging::Source::builder().address(address).add_to_filter(SELECTOR, filter).build();
        Receiver::builder()
            .name(format!("shoal-partition-{partition}"))
            .source(from)
            .sender_settle_mode(SenderSettleMode::Settled)
            .credit_mode(CreditMode::Auto(CREDIT))
            .max_message_size(MAX_EVENT)
            .auto_accept(true)
            .verify_incoming_source(false)
            .verify_incoming_target(false)
            .attach(&mut self.session)
            .await
            .map_err(|error| {
                let group = &self.group;
                format!("partition {partition} for {group}: {}", receiver_refused(&error))
            })
    }
}

/// Nothing is read without one.
async fn put_token(source: &Source, cbs: &mut Rpc) -> Result<(), String> {
    let resource = source.connection.resource(&source.hub);
    let token = match &source.connection.access {
        Access::Token(token) => token.clone(),
        Access::Policy { name, key } => {
            let until_us = SystemClock.unix_us().saturating_add(source.token_life_us);
            sas::policy_token(&resource, name, key, until_us / 1_000_000)
        }
    };
    let question = [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", resource.as_str()),
    ];
    let answer = cbs.ask(&question, Value::String(token)).await?;
    let taken: Result<OrderedMap<Value, Value>, String> = answer.taken();
    taken.map(|_| ()).map_err(|why| format!("its token is refused: {why}"))
}

fn refused(error: &OpenError) -> String {
    match error {
        OpenError::ProtocolHeaderMismatch(_) => "what answers does not speak AMQP 1.0".to_owned(),
        OpenError::Io(error) => format!("the connection broke: {error}"),
        other => other.to_string(),
    }
}
