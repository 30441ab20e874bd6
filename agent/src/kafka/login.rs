//! SCRAM (RFC 5802, 7677): both sides prove that they know the password, and nobody says it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

/// What a server may ask for at most: a second of work.
const MAX_ITERATIONS: u32 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

/// A login that waits for the server's word.
#[derive(Debug)]
pub(crate) struct Scram {
    hash: Hash,
    password: String,
    nonce: String,
    first_bare: String,
    /// Proves that the server knows the password too.
    server_signature: Vec<u8>,
}

impl Scram {
    pub(crate) fn new(hash: Hash, username: &str, password: &str, nonce: String) -> Self {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={username},r={nonce}");
        let password = password.to_owned();
        Self { hash, password, nonce, first_bare, server_signature: Vec::new() }
    }

    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The answer to the server's first message.
    pub(crate) fn last(&mut self, server_first: &[u8]) -> Result<String, &'static str> {
        const BAD: &str = "the broker breaks off the SCRAM login";
        let server_first = std::str::from_utf8(server_first).map_err(|_| BAD)?;
        let field = |name: &str| {
            server_first.split(',').find_map(|field| field.strip_prefix(name)).ok_or(BAD)
        };
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(BAD);
        }
        let salt = STANDARD.decode(salt).map_err(|_| BAD)?;
        let iterations: u32 = iterations.parse().map_err(|_| BAD)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err("the broker asks for more rounds of SCRAM than it may");
        }
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{server_first},{without_proof}", self.first_bare);
        let salted = self.salted(&salt, iterations);
        let client_key = self.mac(&salted, &[b"Client Key"]);
        let signature = self.mac(&self.digest(&client_key), &[said.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let server_key = self.mac(&salted, &[b"Server Key"]);
        self.server_signature = self.mac(&server_key, &[said.as_bytes()]);
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server's last message proves that it is who it should be.
    pub(crate) fn is_proven(&self, server_last: &[u8]) -> bool {
        let signature = server_last.strip_prefix(b"v=");
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        !self.server_signature.is_empty() && signature.as_ref() == Some(&self.server_signature)
    }

    fn salted(&self, salt: &[u8], iterations: u32) -> Vec<u8> {
        let password = self.password.as_bytes();
        let mut round = self.mac(password, &[salt, &1_u32.to_be_bytes()]);
        let mut salted = round.clone();
        for _ in 1..iterations {
            round = self.mac(password, &[&round]);
            salted.iter_mut().zip(&round).for_each(|(sum, byte)| *sum ^= byte);
        }
        salted
    }

    fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
            Hash::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn mac(&self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn of<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key of any length will do");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match self.hash {
            Hash::Sha256 => of::<Hmac<Sha256>>(key, parts),
            Hash::Sha512 => of::<Hmac<Sha512>>(key, parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn the_example_of_the_standard_comes_out() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let mut scram = Scram::new(Hash::Sha256, "user", "pencil", nonce);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = scram.last(server.as_bytes()).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(last, expected);
        assert!(scram.is_proven(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.is_proven(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
    }

    #[test]
    fn a_server_that_cheats_is_refused() {
        for server in [
            "",
            "r=abc,s=YQ==,i=1",
            "r=other1,s=YQ==,i=1",
            "r=abc1,s=!,i=1",
            "r=abc1,s=YQ==,i=0",
            "r=abc1,s=YQ==,i=4000000000",
        ] {
            let mut scram = Scram::new(Hash::Sha512, "a,b", "p", "abc".to_owned());
            assert!(scram.last(server.as_bytes()).is_err(), "{server}");
            assert!(!scram.is_proven(b"v="), "{server}");
        }
    }
}
