//! Files that go with a run: what a scenario may name, and what each mistake in one gets.

use shoal_domain::check::{files_named, parse_plan};
use shoal_domain::files::{File, FileId, Files, Slice};
use shoal_domain::plan::{FileRef, Plan, TargetKind};
use shoal_domain::shard::{Block, Shard};

const SCENARIO: &str = "version: 1
name: files
vars: { users: users.csv }
targets: { t: { mqtt: { url: mqtts://127.0.0.1, ca: certs/ca.pem } } }
groups:
  g:
    target: t
    devices: 3
    rows: ${vars.users}
    id: ${row.user}
    let: { site: '${row.site}' }
    credentials: { username: '${row.user}' }
    send:
      s: { every: 1s, publish: { topic: 'a/${row.site}', json: { user: '${row.user}', site: '${let.site}' } } }
load: [ { ramp: { to: 100%, over: 1s } } ]
";
const CA: &[u8] = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
const USERS: &[u8] = b"user,site\nanna,1\nbert,2\ncora,\"say \"\"3\"\"\"\n";

fn files(users: &[u8]) -> Files {
    [File::new("certs/ca.pem", CA), File::new("users.csv", users)].into_iter().collect()
}

fn plan(text: &str, files: &Files) -> Result<Plan, Vec<String>> {
    parse_plan(text, &[], files).map_err(|found| found.iter().map(ToString::to_string).collect())
}

fn ca(plan: &Plan) -> Option<FileRef> {
    match &plan.targets[0].kind {
        TargetKind::Mqtt(target) => target.tls.as_ref().and_then(|tls| tls.ca.clone()),
        TargetKind::Http(_) => None,
    }
}

fn mistakes(text: &str, files: &Files) -> Vec<String> {
    plan(text, files).expect_err("a mistake")
}

#[test]
fn what_a_scenario_names_is_asked_for_and_hashed() {
    let named: Vec<String> = files_named(SCENARIO, &[]).into_iter().collect();
    assert_eq!(named, ["certs/ca.pem", "users.csv"]);
    let overrides = [("users".to_owned(), "./others.csv".to_owned())];
    assert!(files_named(SCENARIO, &overrides).contains("others.csv"));

    let plan = plan(SCENARIO, &files(USERS)).unwrap();
    assert_eq!(ca(&plan), Some(FileRef::Shipped(FileId(0))));
    assert_eq!(plan.file(FileId(0)).bytes(), Some(CA));
    let other = self::plan(SCENARIO, &files(b"user,site\nanna,1\nbert,2\ncora,4\n")).unwrap();
    assert_ne!(plan.hash(), other.hash());
}

#[test]
fn a_slice_gives_the_plan_of_the_whole_table() {
    let whole = plan(SCENARIO, &files(USERS)).unwrap();
    let rows = whole.groups[0].rows.as_ref().unwrap();
    let file = whole.files.iter().find(|file| file.path == "users.csv").unwrap();
    let part = File::sliced("users.csv", file.sha256, file.n_bytes, rows.slice(&[0..1, 2..3]));
    let sliced = [File::new("certs/ca.pem", CA), part].into_iter().collect();
    let part = plan(SCENARIO, &sliced).unwrap();
    assert_eq!(part.hash(), whole.hash());
    let rows = part.groups[0].rows.as_ref().unwrap();
    assert_eq!((rows.cell(1, 0), rows.cell(2, 1)), (None, Some("say \"3\"")));

    let broken =
        Slice { n_rows: 3, ranges: vec![0..1, 2..3], csv: (*b"user,site\nanna,1\n").into() };
    let broken = File::sliced("users.csv", [0; 32], 0, broken);
    let sliced = [File::new("certs/ca.pem", CA), broken].into_iter().collect();
    assert!(mistakes(SCENARIO, &sliced)[0].contains("miss rows"));
}

#[test]
fn an_agent_gets_the_rows_of_its_devices_and_every_other_file() {
    let whole = plan(SCENARIO, &files(USERS)).unwrap();
    let shard = Shard { blocks: vec![Block::new(0, 1..2)] };
    let part = plan(SCENARIO, &shard.files(&whole).into_iter().collect()).unwrap();
    assert_eq!(part.hash(), whole.hash());
    assert_eq!(part.file(FileId(0)).bytes(), Some(CA));
    let rows = part.groups[0].rows.as_ref().unwrap();
    assert_eq!((rows.cell(0, 0), rows.cell(1, 0), rows.cell(2, 0)), (None, Some("bert"), None));
}

#[test]
fn every_mistake_with_a_file_is_said_at_its_place() {
    let wrong = |left: &str, right: &str| {
        assert!(SCENARIO.contains(left), "{left}");
        mistakes(&SCENARIO.replacen(left, right, 1), &files(USERS)).join("\n")
    };
    let help = "keys and passwords are not shipped";
    assert_eq!(
        wrong("users.csv", "../users.csv"),
        "3:16 vars.users: `../users.csv` is used as groups.g.rows (line 9), which needs a path \
         below the directory of this file, without `..`"
    );
    assert!(wrong("certs/ca.pem", "/etc/ca.pem").contains("agent:/... for a file of the agent"));
    assert!(wrong("certs/ca.pem", "agent:ca.pem").contains("an absolute path on the agent"));
    assert!(wrong("certs/ca.pem", "users.csv").contains("`users.csv` holds no certificate"));
    assert!(wrong("certs/ca.pem", "users.csv").contains("a table of rows and as something else"));
    assert!(wrong("certs/ca.pem", "ca.pem").contains("`ca.pem` is not among the files"));
    assert!(wrong("users.csv", "agent:/users.csv").contains("a file beside the scenario"));
    assert_eq!(
        wrong("devices: 3", "devices: 4"),
        "9:11 groups.g.rows: `users.csv` has 3 rows, but the group has 4 devices: each needs its own"
    );
    assert!(wrong("a/${row.site}", "a/${row.sit}").contains("did you mean `site`?"));
    assert!(wrong("    rows: ${vars.users}\n", "").contains("give the group `rows: table.csv`"));
    assert!(wrong("devices: 3", "devices: '${row.n}'").contains("needs a table of rows"));
    assert_eq!(
        mistakes(SCENARIO, &files(b"user,site\nanna,1\nbert,2\nanna,3\n")),
        ["10:9 groups.g.id: devices 0 and 2 would share this id: both have `anna` in `row.user`"]
    );
    let found = mistakes(SCENARIO, &files(b"user,site,api_key\na,b,c\n"));
    assert!(found[0].contains("line 1: column `api_key` looks like a key"), "{found:?}");
    assert!(found[0].contains(help), "{found:?}");
    let key = b"user,site\n1,-----BEGIN EC PRIVATE KEY-----\n";
    let found = mistakes(SCENARIO, &files(key));
    assert!(found[0].contains("`users.csv` holds a private key | help: keys"), "{found:?}");
    assert_eq!(
        mistakes(SCENARIO, &files(b"user,site\na,b,c\nd\n")),
        [
            "9:11 groups.g.rows: `users.csv` line 2: 3 cells found, 2 expected as in the header",
            "9:11 groups.g.rows: `users.csv` line 3: 1 cells found, 2 expected as in the header",
        ]
    );
    let mut unreadable = files(USERS);
    unreadable.insert_unreadable("users.csv", "it is a directory");
    assert_eq!(
        mistakes(SCENARIO, &unreadable),
        ["9:11 groups.g.rows: `users.csv` cannot be read: it is a directory"]
    );
}

#[test]
fn an_agent_s_own_file_is_not_shipped() {
    let text = SCENARIO.replacen("certs/ca.pem", "agent:/etc/ca.pem", 1);
    assert!(!files_named(&text, &[]).iter().any(|path| path.contains("ca.pem")));
    let plan = plan(&text, &files(USERS)).unwrap();
    assert_eq!(ca(&plan), Some(FileRef::OnAgent("/etc/ca.pem".to_owned())));
}

#[test]
fn there_is_a_bound_for_all_files_together() {
    let large = vec![b'x'; 17 << 20];
    let ca = [CA, &large].concat();
    let users = [USERS, b"dora,", &large, b"\n"].concat();
    let files = [File::new("certs/ca.pem", ca), File::new("users.csv", users)];
    let found = mistakes(SCENARIO, &files.into_iter().collect());
    assert!(found[0].contains("at most 32 MiB are shipped"), "{found:?}");
}
