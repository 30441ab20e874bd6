//! One POST over plain HTTP, of whose answer only the status matters.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Of an answer only its status is read.
const MAX_STATUS: u64 = 64;

/// Where to post, and with which leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host:port`.
    address: String,
    path: String,
    authorization: Option<String>,
}

impl Endpoint {
    /// Of `http://host[:port]/path?query`; `authorization` is the whole value of that header.
    pub(super) fn new(
        url: &str,
        default_port: u16,
        authorization: Option<String>,
    ) -> Result<Self, String> {
        let wrong = || format!("`{url}` found, http://host[:port]/path?query expected");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (address, path) = rest.split_once('/').ok_or_else(wrong)?;
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if address.is_empty() || address.contains('@') || !is_plain(rest) {
            return Err(wrong());
        }
        if authorization.as_deref().is_some_and(|text| !text.split(' ').all(is_plain)) {
            return Err("the token holds characters that a header cannot".to_owned());
        }
        let has_port =
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address =
            if has_port { address.to_owned() } else { format!("{address}:{default_port}") };
        Ok(Self { address, path: format!("/{path}"), authorization })
    }

    /// `headers` are whole lines.
    pub(super) async fn post(&self, headers: &str, body: &[u8]) -> Result<(), String> {
        let Self { address, path, authorization } = self;
        let authorization = match authorization {
            Some(value) => format!("Authorization: {value}\r\n"),
            None => String::new(),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}{headers}\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let failed = |error: std::io::Error| error.to_string();
        let mut socket = TcpStream::connect(address).await.map_err(failed)?;
        socket.write_all(head.as_bytes()).await.map_err(failed)?;
        socket.write_all(body).await.map_err(failed)?;
        let mut status = Vec::new();
        socket.take(MAX_STATUS).read_to_end(&mut status).await.map_err(failed)?;
        let status = String::from_utf8_lossy(&status);
        let line = status.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(format!("it answers `{line}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn an_endpoint_is_an_http_url() {
        let good = Endpoint::new("http://db/api/v2/write?org=o&bucket=b", 8086, None).unwrap();
        assert_eq!(
            (good.address.as_str(), good.path.as_str()),
            ("db:8086", "/api/v2/write?org=o&bucket=b")
        );
        for wrong in
            ["https://db/x", "db:8086/write", "http://db", "http://u:p@db/x", "http://db/a b"]
        {
            assert!(Endpoint::new(wrong, 8086, None).is_err(), "{wrong}");
        }
        assert!(Endpoint::new("http://db/x", 8086, Some("Bearer a\r\nb".into())).is_err());
    }

    #[tokio::test]
    async fn points_are_posted_with_the_token_and_a_refusal_is_told() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/write?db=d", listener.local_addr().unwrap());
        let endpoint = Endpoint::new(&url, 8086, Some("Token secret".into())).unwrap();
        for (answer, is_taken) in
            [("HTTP/1.1 204 No Content\r\n\r\n", true), ("HTTP/1.1 401 No\r\n\r\n", false)]
        {
            let server = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut got = vec![0; 4096];
                let mut n = 0;
                while !String::from_utf8_lossy(&got[..n]).ends_with("x y=1i 5\n") {
                    n += socket.read(&mut got[n..]).await.unwrap();
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&got[..n]).into_owned()
            };
            let (sent, got) = tokio::join!(endpoint.post("X-A: b\r\n", b"x y=1i 5\n"), server);
            assert_eq!(sent.is_ok(), is_taken, "{sent:?}");
            assert!(got.starts_with("POST /write?db=d HTTP/1.1\r\n"), "{got}");
            assert!(got.contains("Authorization: Token secret\r\n"), "{got}");
            assert!(got.contains("X-A: b\r\n"), "{got}");
        }
    }
}
