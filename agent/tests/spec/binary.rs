//! The binary itself: what it says of itself, and how it refuses to start.

use std::process::{Command, Output};

/// Cannot be made, so no test leaves anything behind.
const NO_DIRECTORY: &str = "/dev/null/agent";

fn shoal_agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal-agent"))
        .args(args)
        .env_clear()
        .output()
        .expect("shoal-agent can be started")
}

#[test]
fn help_goes_to_stdout_and_names_every_setting() {
    let output = shoal_agent(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for setting in ["--server", "--id", "--data-dir", "--capacity", "--allow-target"] {
        assert!(text.contains(setting), "{text}");
    }
}

#[test]
fn what_cannot_be_used_is_named_and_ends_with_exit_code_2() {
    for (args, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&[], "--server"),
        (&["--server", "http://h:1", "--id", "a", "--capacity=-1"], "--capacity"),
        (&["--server", "http://h:1", "--id", "a b"], "a b"),
        (&["--server", "no url", "--id", "a"], "no url"),
        (&["--server", "http://h:1", "--id", "a"], NO_DIRECTORY),
    ] {
        let output = shoal_agent(&[args, &["--data-dir", NO_DIRECTORY]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.starts_with("error") && text.contains(named), "{args:?}: {text}");
    }
}
