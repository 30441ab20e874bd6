//! The Kafka source of an observer: where its brokers are, and how it logs in there.

use super::Check;
use super::targets::host_and_port;
use super::text::Scope;
use crate::plan::{KafkaLogin, KafkaSource, SaslMechanism, Tls};
use crate::scenario::{self, Written};

const PORT: u16 = 9092;
/// As brokers have it.
const MAX_TOPIC: usize = 249;

impl Check<'_> {
    pub(super) fn kafka_source(&self, kafka: &scenario::KafkaSource) -> Option<KafkaSource> {
        let brokers = kafka.brokers.as_ref().and_then(|written| self.brokers(written));
        let topic = kafka.topic.as_ref().and_then(|written| self.kafka_topic(written));
        let tls = self.kafka_tls(kafka);
        let login = match &kafka.credentials {
            Some(credentials) => self.kafka_login(credentials).map(Some),
            None => Some(None),
        };
        Some(KafkaSource { brokers: brokers?, topic: topic?, tls: tls?, login: login? })
    }

    fn brokers(&self, written: &Written) -> Option<Vec<(String, u16)>> {
        let needs = "host:port, or several with commas between them";
        self.read(written, needs, |text| {
            text.split(',').map(|broker| host_and_port(broker.trim(), PORT)).collect()
        })
    }

    fn kafka_topic(&self, written: &Written) -> Option<String> {
        let needs = "the name of a topic: letters, digits, `.`, `_` and `-`";
        self.read(written, needs, |text| is_topic(text).then(|| text.to_owned()))
    }

    fn kafka_tls(&self, kafka: &scenario::KafkaSource) -> Option<Option<Tls>> {
        let is_secure = self.flag(kafka.tls.as_ref());
        let ca = self.authorities(kafka.ca.as_ref());
        if let (Some(written), Some(false)) = (&kafka.ca, is_secure) {
            let help = Some("write `tls: true` beside it".to_owned());
            return self.refuse(written, "`ca` is for brokers with TLS".to_owned(), help);
        }
        let tls = Tls { ca: ca?, server_name: None, resumption: false };
        Some(is_secure?.then_some(tls))
    }

    fn kafka_login(&self, credentials: &scenario::KafkaCredentials) -> Option<KafkaLogin> {
        let mechanism = match &credentials.mechanism {
            Some(written) => {
                let words = SaslMechanism::ALL.map(SaslMechanism::word).join(", ");
                self.read(written, &format!("one of {words}"), |text| {
                    SaslMechanism::ALL.into_iter().find(|mechanism| mechanism.word() == text)
                })
            }
            None => Some(SaslMechanism::Plain),
        };
        let scope = Scope { secrets: true, ..Scope::plan() };
        let template = |written: &Option<Written>| self.template(written.as_ref()?, &scope);
        let (username, password) =
            (template(&credentials.username), template(&credentials.password));
        Some(KafkaLogin { mechanism: mechanism?, username: username?, password: password? })
    }
}

fn is_topic(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !matches!(text, "" | "." | "..") && text.len() <= MAX_TOPIC && text.bytes().all(is_plain)
}
