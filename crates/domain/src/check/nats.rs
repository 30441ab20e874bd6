//! The NATS source of an observer: where the server is, which subject of which stream, and the login.

use super::Check;
use super::targets::host_and_port;
use super::text::Scope;
use crate::plan::{NatsLogin, NatsSource, Tls};
use crate::scenario::{self, Written};

const PORT: u16 = 4222;

impl Check<'_> {
    pub(super) fn nats_source(&self, nats: &scenario::NatsSource) -> Option<NatsSource> {
        let url = nats.url.as_ref().and_then(|url| {
            self.read(url, "nats://host[:port] or tls://host[:port]", |text| {
                let (scheme, rest) = text.split_once("://")?;
                let is_secure = ["nats", "tls"].iter().position(|known| *known == scheme)? == 1;
                host_and_port(rest, PORT).map(|at| (is_secure, at))
            })
        });
        let needs = "a subject, in which * is a whole token and > the last ones";
        let subject = nats.subject.as_ref().and_then(|subject| {
            self.read(subject, needs, |text| is_subject(text).then(|| text.to_owned()))
        });
        let stream = match &nats.stream {
            Some(stream) => self
                .read(stream, "the name of a stream", |text| {
                    is_stream(text).then(|| text.to_owned())
                })
                .map(Some),
            None => Some(None),
        };
        let ca = self.authorities(nats.ca.as_ref());
        if let (Some(written), Some((false, _))) = (&nats.ca, &url) {
            let help = Some("write tls:// in the URL".to_owned());
            return self.refuse(written, "`ca` is for servers with TLS".to_owned(), help);
        }
        let login = self.nats_login(nats);
        let (is_secure, (host, port)) = url?;
        let tls = Tls { ca: ca?, server_name: None, resumption: false };
        Some(NatsSource {
            host,
            port,
            tls: is_secure.then_some(tls),
            subject: subject?,
            stream: stream?,
            login: login?,
        })
    }

    fn nats_login(&self, nats: &scenario::NatsSource) -> Option<Option<NatsLogin>> {
        let scope = Scope { secrets: true, ..Scope::plan() };
        let template = |written: &Written| self.template(written, &scope);
        match (&nats.token, &nats.username, &nats.password) {
            (None, None, None) => Some(None),
            (Some(token), None, None) => template(token).map(|token| Some(NatsLogin::Token(token))),
            (None, Some(username), Some(password)) => {
                let (username, password) = (template(username), template(password));
                Some(Some(NatsLogin::Password { username: username?, password: password? }))
            }
            (_, Some(written), _) | (_, None, Some(written)) => {
                let message = "a login is `username` and `password`, or `token` alone".to_owned();
                self.refuse(written, message, None)
            }
        }
    }
}

fn is_subject(text: &str) -> bool {
    let tokens: Vec<&str> = text.split('.').collect();
    text.len() <= 1_024
        && tokens.iter().enumerate().all(|(at, token)| match *token {
            "" => false,
            "*" => true,
            ">" => at + 1 == tokens.len(),
            token => {
                token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.contains(['*', '>'])
            }
        })
}

/// It becomes a token of a subject.
fn is_stream(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b".*>/\\".contains(&byte);
    (1..=256).contains(&text.len()) && text.bytes().all(is_plain)
}
