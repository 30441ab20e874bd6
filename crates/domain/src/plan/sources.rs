//! What observers read: where each kind of source is, and how a reader logs in there.

use std::net::SocketAddr;

use super::{Credentials, MqttTarget, Qos, Tls};
use crate::template::Template;

/// Where an observer reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Mqtt(Box<MqttSource>),
    Kafka(KafkaSource),
    EventHubs(EventHubsSource),
    Nats(NatsSource),
    Webhook(WebhookSource),
}

/// The platform pushes events to whoever reads.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookSource {
    /// On the agent.
    pub listen: SocketAddr,
    /// Behind it the run's mark may stand.
    pub path: String,
    /// What the platform must show.
    pub bearer: Option<Template>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MqttSource {
    pub broker: MqttTarget,
    pub filter: String,
    pub qos: Qos,
    /// Readers of one share get each event once between them; `None`: one reader gets all.
    pub share: Option<String>,
    /// `let` values and device names are not known here.
    pub credentials: Option<Credentials>,
}

/// A topic of a Kafka cluster or of what speaks its protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaSource {
    /// Hosts and ports that are asked for the others, at least one.
    pub brokers: Vec<(String, u16)>,
    pub topic: String,
    pub tls: Option<Tls>,
    pub login: Option<KafkaLogin>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KafkaLogin {
    pub mechanism: SaslMechanism,
    pub username: Template,
    pub password: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

/// A hub of Azure Event Hubs, or the built-in endpoint of an IoT Hub, over AMQP.
#[derive(Debug, Clone, PartialEq)]
pub struct EventHubsSource {
    /// The connection string, as the portal shows it.
    pub connection: Template,
    /// `None`: the connection string's `EntityPath`.
    pub hub: Option<String>,
    pub consumer_group: String,
    /// Who is dialled in place of the connection string's host.
    pub endpoint: Option<(String, u16)>,
    pub token_life_us: u64,
    pub tls: Tls,
}

/// A stream of NATS JetStream.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsSource {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
    /// With `*` and `>`, as the server matches them.
    pub subject: String,
    /// `None`: the one that keeps the subject.
    pub stream: Option<String>,
    pub login: Option<NatsLogin>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum NatsLogin {
    Password { username: Template, password: Template },
    Token(Template),
}

impl Source {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Mqtt(_) => "mqtt",
            Self::Kafka(_) => "kafka",
            Self::EventHubs(_) => "eventhubs",
            Self::Nats(_) => "nats",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Whether what was not read yet can be read later, so that a reader's absence loses nothing.
    pub const fn keeps_events(&self) -> bool {
        matches!(self, Self::Kafka(_) | Self::EventHubs(_) | Self::Nats(_))
    }

    /// How many readers share it at most; the rest of the fleet would read nothing.
    pub fn max_readers(&self) -> usize {
        match self {
            Self::Mqtt(mqtt) if mqtt.share.is_none() => 1,
            Self::Webhook(_) | Self::Nats(_) => 1,
            Self::Mqtt(_) | Self::Kafka(_) | Self::EventHubs(_) => usize::MAX,
        }
    }
}

impl SaslMechanism {
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// As it stands in a scenario.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ScramSha256 => "scram-sha-256",
            Self::ScramSha512 => "scram-sha-512",
        }
    }
}
