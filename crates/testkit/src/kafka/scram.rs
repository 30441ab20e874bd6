//! The server's half of a SCRAM login (RFC 5802) with SHA-256 or SHA-512, for one user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

const SALT: &[u8] = b"some salt of the stand-in";
const ROUNDS: u32 = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scram {
    Sha256,
    Sha512,
}

/// A login that waits for the client's proof.
pub(super) struct Started {
    hash: Scram,
    nonce: String,
    /// What both sides have said so far.
    said: String,
}

/// The answer to the client's first message; `None`: it is none, or of another user.
pub(super) fn start(hash: Scram, first: &[u8], username: &str) -> Option<(Started, String)> {
    let bare = std::str::from_utf8(first).ok()?.strip_prefix("n,,")?;
    let (name, nonce) = bare.strip_prefix("n=")?.split_once(",r=")?;
    if name != username.replace('=', "=3D").replace(',', "=2C") {
        return None;
    }
    let nonce = format!("{nonce}of-the-server");
    let answer = format!("r={nonce},s={},i={ROUNDS}", STANDARD.encode(SALT));
    Some((Started { hash, nonce, said: format!("{bare},{answer}") }, answer))
}

impl Started {
    /// The server's own proof; `None`: the client does not know the password.
    pub(super) fn finish(self, last: &[u8], password: &str) -> Option<String> {
        let last = std::str::from_utf8(last).ok()?;
        let (without_proof, proof) = last.rsplit_once(",p=")?;
        if without_proof != format!("c=biws,r={}", self.nonce) {
            return None;
        }
        let said = format!("{},{without_proof}", self.said);
        let hash = self.hash;
        let salted = hash.salted(password);
        let client_key = hash.mac(&salted, b"Client Key");
        let signature = hash.mac(&hash.digest(&client_key), said.as_bytes());
        let expected: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let is_right = STANDARD.decode(proof).is_ok_and(|proof| proof == expected);
        let server = hash.mac(&hash.mac(&salted, b"Server Key"), said.as_bytes());
        is_right.then(|| format!("v={}", STANDARD.encode(server)))
    }
}

impl Scram {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn salted(self, password: &str) -> Vec<u8> {
        let mut round = self.mac(password.as_bytes(), &[SALT, &[0, 0, 0, 1]].concat());
        let mut salted = round.clone();
        for _ in 1..ROUNDS {
            round = self.mac(password.as_bytes(), &round);
            salted.iter_mut().zip(&round).for_each(|(sum, byte)| *sum ^= byte);
        }
        salted
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn mac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        fn of<M: Mac + KeyInit>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key of any length will do");
            mac.update(bytes);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha256 => of::<Hmac<Sha256>>(key, bytes),
            Self::Sha512 => of::<Hmac<Sha512>>(key, bytes),
        }
    }
}
