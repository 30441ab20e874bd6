//! Where a command runs: at a control plane somewhere, or at one in this process.
//!
//! The first line on stderr says which, so that nobody looks for a run in the wrong store.

use std::path::Path;

use crate::client::{self, Client};
use crate::config::Settings;
use crate::error::Error;
use crate::here::{self, Here, Wish};
use crate::render::remark;

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) client: Client,
    /// For messages: the URL, or `this process`.
    pub(crate) name: String,
    token: Option<String>,
    pub(crate) here: Option<Here>,
}

impl Place {
    pub(crate) async fn open(settings: &Settings, wish: Wish, quiet: bool) -> Result<Self, Error> {
        if !quiet {
            remark(&announcement(settings));
        }
        match &settings.server {
            Some(server) => {
                let client = client::connect(server, settings.token.as_deref()).await?;
                let token = settings.token.clone();
                Ok(Self { client, name: server.clone(), token, here: None })
            }
            None => {
                let here = Here::start(&settings.data_dir, wish).await?;
                let client = client::connect(&here.server, here.token.as_deref()).await?;
                let (name, token) = ("this process".into(), here.token.clone());
                Ok(Self { client, name, token, here: Some(here) })
            }
        }
    }

    /// After a break: of several addresses the one that answers now; nothing changes where none does.
    pub(crate) async fn dial_again(&mut self) {
        if self.here.is_none()
            && let Ok(client) = client::connect(&self.name, self.token.as_deref()).await
        {
            self.client = client;
        }
    }

    pub(crate) fn refused(&self, status: &tonic::Status) -> Error {
        client::refused(&self.name, status)
    }

    pub(crate) async fn close(self) {
        // First hang up: a server that stops waits for its open connections.
        drop(self.client);
        if let Some(here) = self.here {
            here.close().await;
        }
    }
}

fn announcement(settings: &Settings) -> String {
    match &settings.server {
        Some(server) => format!("server: {server}\n"),
        None => {
            let store = here::store_path(&settings.data_dir);
            format!("server: this process, store {}\n", with_tilde(&store))
        }
    }
}

fn with_tilde(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match home.and_then(|home| path.strip_prefix(&home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}
