//! `shoal completions` and `shoal man`: what the command line says of itself, for shells and for
//! `man`. Made from the same definitions as the help, so that neither can lag behind.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::DONE;
use crate::args::{Args, Global};
use crate::error::Error;
use crate::render;

const NAME: &str = "shoal";

pub(super) fn completions(shell: Shell) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    render::data(&String::from_utf8_lossy(&script))?;
    Ok(DONE)
}

pub(super) fn pages(global: &Global, to: Option<&Path>) -> Result<u8, Error> {
    let pages = all_pages();
    let Some(dir) = to else {
        if let Some((_, page)) = pages.first() {
            render::data(page)?;
        }
        return Ok(DONE);
    };
    let failed = |path: &Path, error: std::io::Error| Error::Report {
        path: path.to_owned(),
        why: error.to_string(),
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for (name, page) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
    }
    if !global.quiet {
        let n = pages.len();
        render::remark(&format!("written: {n} pages into {}\n", dir.display()));
    }
    Ok(DONE)
}

/// File names and pages: the program, then every command that people see.
fn all_pages() -> Vec<(String, String)> {
    let mut root = Args::command();
    // Names of commands become `shoal-scenario-check`, and each knows the options of its parents.
    root.build();
    let mut pages = Vec::new();
    add_page(&root, NAME, &mut pages);
    pages
}

fn add_page(command: &Command, name: &str, pages: &mut Vec<(String, String)>) {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    if clap_mangen::Man::new(command.clone()).render(&mut page).is_ok() {
        pages.push((format!("{name}.1"), String::from_utf8_lossy(&page).into_owned()));
    }
    for child in command.get_subcommands() {
        if !child.is_hide_set() && child.get_name() != "help" {
            add_page(child, &format!("{name}-{}", child.get_name()), pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_people_see_has_a_page() {
        let pages = all_pages();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "shoal.1");
        for name in ["shoal-run.1", "shoal-scenario-check.1", "shoal-baseline-set.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("demo-broker")), "{names:?}");
        let (_, run) = pages.iter().find(|(name, _)| name == "shoal-run.1").unwrap();
        assert!(run.contains("shoal\\-run"), "{run}");
    }

    #[test]
    fn shells_complete_the_commands() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Args::command(), NAME, &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("scenario") && script.contains("--exclude-ramp"));
    }
}
