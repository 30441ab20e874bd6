use super::*;

const SCENARIO: &str = include_str!("../../../../scenarios/quickstart.yaml");

fn wanted() -> v1::Assignment {
    let plan = shoal_domain::check::parse_plan(SCENARIO, &[], &Files::none()).unwrap();
    let end = plan.groups[0].devices;
    v1::Assignment {
        run_id: shoal_domain::ids::RunId::from_parts(1, 2).to_string(),
        scenario: SCENARIO.to_owned(),
        plan_hash: plan.hash().to_vec(),
        blocks: vec![v1::Block { end, ..v1::Block::default() }],
        spawn_rate: 100.0,
        builtin: "127.0.0.1:1883".to_owned(),
        ..v1::Assignment::default()
    }
}

fn refused(wanted: &v1::Assignment) -> Refusal {
    read(wanted, &Files::none(), (TargetGuard::any(), SourceAddresses::default()), None, 2)
        .map(|_| ())
        .unwrap_err()
}

#[test]
fn an_assignment_becomes_a_job() {
    let job =
        read(&wanted(), &Files::none(), (TargetGuard::any(), SourceAddresses::default()), None, 2)
            .map_err(|r| r.why)
            .unwrap();
    let Work::Drive(job) = job else { panic!("it has blocks") };
    assert_eq!(job.shard.devices(), job.plan.groups[0].devices);
    assert!((1..=2).contains(&job.cores));
}

#[test]
fn whatever_does_not_fit_is_refused_with_a_sentence() {
    let change = |change: &dyn Fn(&mut v1::Assignment)| {
        let mut wanted = wanted();
        change(&mut wanted);
        let refusal = refused(&wanted);
        assert_eq!(refusal.code, "SH0209");
        assert!(!refusal.why.contains('\n'), "{}", refusal.why);
        refusal.why
    };
    assert!(change(&|w| w.plan_hash[0] ^= 1).contains("another plan"));
    assert!(change(&|w| w.scenario = "groups: 7".into()).contains("cannot read the scenario"));
    assert!(change(&|w| w.blocks[0].end = u64::MAX).contains("blocks"));
    assert!(change(&|w| w.run_id = "x".into()).contains("run id"));
    assert!(change(&|w| w.builtin = "here".into()).contains("`here`"));
    assert!(change(&|w| w.spawn_rate = f64::NAN).contains("spawn rate"));
}

#[test]
fn secrets_are_files_named_like_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("password", b"pa ss\r\n");
    write(".hidden", b"x");
    write("binary", b"\xff");
    write("large", &vec![b'x'; 64 * 1024 + 1]);
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    let secrets = read_secrets(dir.path()).map_err(|r| r.why).unwrap();
    assert_eq!(secrets, BTreeMap::from([("password".to_owned(), "pa ss".to_owned())]));
    let missing = read_secrets(&dir.path().join("none")).unwrap_err();
    assert_eq!(missing.code, "SH0303");
}
