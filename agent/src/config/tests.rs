use super::*;

fn flags(words: &[&str]) -> Flags {
    Flags::try_parse_from([&["shoal-agent"], words].concat()).unwrap()
}

fn with(
    words: &[&str],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<(Config, LogFormat), ConfigError> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    resolve(&flags(words), &env, file, "host-1")
}

const HOME: (&str, &str) = ("HOME", "/home/x");
const FILE: Option<&str> =
    Some("# agent\nserver = \"http://file\"\nlabel = zone=c\n\nlabel=rack=1\n");

#[test]
fn flags_win_over_environment_and_environment_over_file() {
    let env = [HOME, ("SHOAL_SERVER", "http://env")];
    assert_eq!(with(&["--server", "http://flag"], &env, FILE).unwrap().0.server, "http://flag");
    assert_eq!(with(&[], &env, FILE).unwrap().0.server, "http://env");
    assert_eq!(with(&[], &[HOME], FILE).unwrap().0.server, "http://file");
    assert_eq!(with(&[], &[HOME], None).unwrap_err(), ConfigError::NoServer);
}

#[test]
fn a_list_comes_from_one_source_as_a_whole() {
    let labels = |words: &[&str], env: &[(&str, &str)]| {
        let labels = with(words, env, FILE).unwrap().0.labels;
        labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    };
    assert_eq!(labels(&[], &[HOME]), "rack=1,zone=c");
    assert_eq!(labels(&[], &[HOME, ("SHOAL_LABELS", "a=1, b=2")]), "a=1,b=2");
    assert_eq!(labels(&["--label", "x=y"], &[HOME, ("SHOAL_LABELS", "a=1")]), "x=y");
}

#[test]
fn what_is_not_given_has_a_default() {
    let (config, format) = with(&[], &[HOME], FILE).unwrap();
    assert_eq!(config.id.as_str(), "host-1");
    assert_eq!(config.data_dir, PathBuf::from("/home/x/.local/share/shoal/agent"));
    assert_eq!((config.token, config.capacity, config.health_listen), (None, None, None));
    assert_eq!(format, LogFormat::Text);
    assert_eq!(with(&[], &[], FILE).unwrap_err(), ConfigError::NoDataDir);
}

#[test]
fn a_bad_value_names_its_source() {
    let error = |words: &[&str], env: &[(&str, &str)], file| {
        let env = [&[HOME, ("SHOAL_SERVER", "http://x")], env].concat();
        with(words, &env, file).unwrap_err().to_string()
    };
    assert!(error(&["--capacity=-1"], &[], None).starts_with("--capacity: `-1`"));
    assert!(error(&[], &[("SHOAL_CAPACITY", "many")], None).starts_with("SHOAL_CAPACITY: `many`"));
    assert!(error(&[], &[("SHOAL_AGENT_ID", "a b")], None).contains("agent id"));
    assert!(error(&["--label", "zone"], &[], None).contains("key=value"));
    assert!(error(&[], &[], Some("\nport = 1")).starts_with("config file line 2: `port`"));
    assert!(error(&[], &[], Some("server")).starts_with("config file line 1:"));
    let error = error(&[], &[], Some("health-listen = here"));
    assert!(error.starts_with("`health-listen` in the config file: `here`"), "{error}");
}
