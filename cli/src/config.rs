//! Where a command runs and with what token: flags, then environment, then one config file.
//!
//! Of the files only the nearest counts (`./shoal.toml`, else the user's): a file found in some
//! directory must not be able to send the token of another file to its own server.

use std::path::{Path, PathBuf};

use crate::args::Global;
use crate::error::Error;

/// What holds after flags, environment and file were weighed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Normalized URL; `None`: a cluster of one in this process.
    pub(crate) server: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) data_dir: PathBuf,
}

/// The environment, as a function, so that tests need not change the process's.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Debug, Default, PartialEq, Eq)]
struct File {
    server: Option<String>,
    token: Option<String>,
    data_dir: Option<PathBuf>,
}

impl Settings {
    pub(crate) fn resolve(flags: &Global, environment: Environment<'_>) -> Result<Self, Error> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let file = read_nearest(&environment)?;
        let server = flags.server.clone().or_else(|| environment("SHOAL_SERVER")).or(file.server);
        let token = flags.token.clone().or_else(|| environment("SHOAL_TOKEN")).or(file.token);
        let data_dir = flags
            .data_dir
            .clone()
            .or_else(|| environment("SHOAL_DATA_DIR").map(PathBuf::from))
            .or(file.data_dir)
            .or_else(|| xdg(&environment, "XDG_DATA_HOME", ".local/share"))
            .ok_or_else(|| Error::Usage {
                why: "no data directory: neither SHOAL_DATA_DIR, XDG_DATA_HOME nor HOME is set"
                    .into(),
                help: "name one with --data-dir".into(),
            })?;
        Ok(Self { server: server.map(|url| normalize(&url)).transpose()?, token, data_dir })
    }
}

fn xdg(
    environment: &dyn Fn(&str) -> Option<String>,
    variable: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let base = environment(variable)
        .map(PathBuf::from)
        // The XDG rules say that relative paths there are to be ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| environment("HOME").map(|home| Path::new(&home).join(below_home)))?;
    Some(base.join("shoal"))
}

fn read_nearest(environment: &dyn Fn(&str) -> Option<String>) -> Result<File, Error> {
    let nearest = PathBuf::from("shoal.toml");
    let users = xdg(environment, "XDG_CONFIG_HOME", ".config").map(|dir| dir.join("config.toml"));
    for path in std::iter::once(nearest).chain(users) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::ConfigFile { path, line: 1, why: error.to_string() });
            }
        }
    }
    Ok(File::default())
}

/// `key = value` lines, values with or without double quotes, `#` starts a comment line.
fn parse(path: &Path, text: &str) -> Result<File, Error> {
    let mut file = File::default();
    for (number, line) in text.lines().enumerate() {
        let wrong =
            |why: String| Error::ConfigFile { path: path.to_owned(), line: number + 1, why };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong(format!("`{line}` found, `key = value` expected")))?;
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(rest) => rest
                .strip_suffix('"')
                .ok_or_else(|| wrong("the closing quote is missing".to_owned()))?,
            None => value,
        };
        match key.trim() {
            "server" => file.server = Some(value.to_owned()),
            "token" => file.token = Some(value.to_owned()),
            "data_dir" => file.data_dir = Some(PathBuf::from(value)),
            other => return Err(wrong(format!("unknown key `{other}`"))),
        }
    }
    Ok(file)
}

/// `host:port` is short for `http://host:port`; of a control plane with standbys all, with commas.
fn normalize(urls: &str) -> Result<String, Error> {
    let urls: Result<Vec<String>, Error> = urls.split(',').map(normalize_one).collect();
    Ok(urls?.join(","))
}

fn normalize_one(url: &str) -> Result<String, Error> {
    let url = url.trim().trim_end_matches('/');
    if url.starts_with("https://") {
        return Err(Error::NotInRelease {
            what: format!("TLS to the control plane ({url})"),
            help: "use http:// inside a private network or through a tunnel".into(),
        });
    }
    let address = url.strip_prefix("http://").unwrap_or(url);
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !has_port || address.contains(['/', '@', ' ']) {
        return Err(Error::Usage {
            why: format!("`{url}` is no address of a control plane"),
            help: "write it like http://10.0.0.5:7100".into(),
        });
    }
    Ok(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(server: Option<&str>) -> Global {
        Global { server: server.map(str::to_owned), ..Global::default() }
    }

    fn with_file(text: &str) -> (tempfile::TempDir, impl Fn(&str) -> Option<String> + use<>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("shoal")).unwrap();
        std::fs::write(dir.path().join("shoal/config.toml"), text).unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let environment = move |name: &str| match name {
            "XDG_CONFIG_HOME" | "HOME" => Some(path.clone()),
            _ => None,
        };
        (dir, environment)
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let (_dir, base) = with_file("server = \"http://file:1\"\ntoken = t\n");
        let environment = |name: &str| match name {
            "SHOAL_SERVER" => Some("env:2".to_owned()),
            other => base(other),
        };
        let server = |flag, environment| {
            Settings::resolve(&flags(flag), environment).unwrap().server.unwrap()
        };
        assert_eq!(server(Some("http://flag:3"), &environment), "http://flag:3");
        assert_eq!(server(None, &environment), "http://env:2");
        assert_eq!(server(None, &base), "http://file:1");
        assert_eq!(Settings::resolve(&flags(None), &base).unwrap().token.unwrap(), "t");
    }

    #[test]
    fn without_any_server_it_is_this_process_with_the_users_data_directory() {
        let home = |name: &str| (name == "HOME").then(|| "/home/ada".to_owned());
        let settings = Settings::resolve(&flags(None), &home).unwrap();
        assert_eq!(settings.server, None);
        assert_eq!(settings.data_dir, Path::new("/home/ada/.local/share/shoal"));
    }

    #[test]
    fn a_mistake_in_the_file_names_file_line_and_what_is_expected() {
        let (_dir, environment) = with_file("# mine\nsevrer = x\n");
        let error = Settings::resolve(&flags(None), &environment).unwrap_err();
        assert!(
            error.to_string().ends_with("config.toml, line 2: unknown key `sevrer`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in
            ["10.0.0.5", "http://", "http://host:0", "host:1/path", "u:p@host:1", "https://h:1"]
        {
            assert!(normalize(wrong).is_err(), "{wrong}");
        }
        assert_eq!(normalize("[::1]:7100/").unwrap(), "http://[::1]:7100");
    }
}
