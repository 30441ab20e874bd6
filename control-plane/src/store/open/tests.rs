//! What an address may look like, and what of it may be shown.

use super::*;

#[test]
fn an_address_names_a_file_memory_or_postgres() {
    assert_eq!(place("sqlite:/var/lib/shoal/runs.sqlite").unwrap(), {
        Place::File("/var/lib/shoal/runs.sqlite")
    });
    assert_eq!(place("sqlite://runs.sqlite").unwrap(), Place::File("runs.sqlite"));
    assert_eq!(place("./runs.sqlite").unwrap(), Place::File("./runs.sqlite"));
    assert_eq!(place("sqlite::memory:").unwrap(), Place::Memory);
    assert_eq!(place("postgres://db/shoal").unwrap(), Place::Postgres);
    assert_eq!(place("postgresql://db/shoal").unwrap(), Place::Postgres);
}

#[test]
fn another_scheme_is_refused_without_showing_its_password() {
    let error = place("mysql://root:hunter2@db/shoal?password=hunter2").unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot use `mysql://db/shoal` as the store: expected postgres://…, sqlite:PATH or a path"
    );
}

#[test]
fn an_empty_path_is_refused() {
    assert!(place("sqlite:").is_err());
    assert!(place("").is_err());
}

#[test]
fn releases_compare_as_numbers() {
    assert!(release_number("0.10.0") > release_number("0.9.1"));
    assert_eq!(release_number("1.2.3-rc.1"), Some((1, 2, 3)));
    assert_eq!(release_number("1.2"), None);
    assert_eq!(release_number("newest"), None);
}

#[test]
fn an_address_without_a_user_logs_in_as_psql_would() {
    for own in
        ["postgres://localhost/shoal", "postgres://:secret@db/shoal", "postgres:///shoal?x=1"]
    {
        assert!(!names_user(own), "{own}");
    }
    for named in ["postgres://shoal@db/shoal", "postgres://a:b@db", "postgres:///shoal?user=shoal"]
    {
        assert!(names_user(named), "{named}");
    }
    let me = std::process::Command::new("id").arg("-un").output().unwrap();
    assert_eq!(own_name().unwrap(), String::from_utf8(me.stdout).unwrap().trim_end());
}
