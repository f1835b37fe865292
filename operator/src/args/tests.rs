use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};

use super::*;
use crate::pod::PullPolicy;

/// The arguments as they are parsed; the environment of the test does not count.
fn parse(arguments: &[&str]) -> Arguments {
    let command = Arguments::command().mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(std::iter::once(&"trainyard-operator").chain(arguments)).unwrap();
    Arguments::from_arg_matches(&matches).unwrap()
}

fn settings(arguments: &[&str]) -> Result<Settings, ArgumentError> {
    let required = ["--runner-image=registry/step-runner:1", "--identity=me"];
    Settings::try_from(parse(&[&required, arguments].concat()))
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn help_says_it_all() {
    insta::assert_snapshot!(Arguments::command().term_width(120).render_long_help());
}

#[test]
fn the_defaults() {
    insta::assert_debug_snapshot!(settings(&[]).unwrap());
}

#[test]
fn everything_given() {
    let given = settings(&[
        "--namespaces=team-b, team-a,,team-b",
        "--runner-image-pull-policy=Always",
        "--runner-mount=init",
        "--report-url=http://trainyard-report.trainyard-system.svc:8090/",
        "--report-listen=127.0.0.1:1",
        "--health-listen=[::1]:2",
        "--leader-election",
        "--lease-namespace=system",
        "--lease-name=other",
        r#"--default-store={"uri": "s3://bucket", "credentials": {"secretName": "store"}}"#,
        r#"--default-resources={"requests": {"cpu": "250m"}}"#,
        "--default-timeout=1h30m",
        "--pod-ttl=2d",
        "--run-as-user=none",
        "--concurrency=4",
        "--log-format=text",
        "--log-level=warn,trainyard_operator=debug",
    ])
    .unwrap();
    assert_eq!(given.namespaces, ["team-a", "team-b"]);
    assert_eq!((given.runner_mode, given.pod.runner_pull_policy), (RunnerMode::Init, Some(PullPolicy::Always)));
    assert_eq!(given.report_url.as_deref(), Some("http://trainyard-report.trainyard-system.svc:8090"));
    let lease = given.lease.unwrap();
    assert_eq!((lease.namespace.as_str(), lease.name.as_str(), lease.identity.as_str()), ("system", "other", "me"));
    assert_eq!(given.default_store.unwrap().uri.as_deref(), Some("s3://bucket"));
    assert_eq!(given.pod.default_resources.unwrap().requests["cpu"].0, "250m");
    assert_eq!((given.default_timeout, given.pod_ttl), (Some(Duration::from_secs(5400)), Duration::from_secs(172_800)));
    assert_eq!((given.pod.run_as_user, given.concurrency, given.log_format), (None, 4, LogFormat::Text));
}

#[test]
fn election_can_be_switched_off_by_value() {
    assert_eq!(settings(&["--leader-election=false"]).unwrap().lease, None);
}

/// A chart that leaves a value empty sets an empty variable.
#[test]
fn empty_is_absent() {
    let given = settings(&["--report-url=", "--default-store=", "--default-resources=", "--default-timeout="]).unwrap();
    assert_eq!(given, settings(&[]).unwrap());
}

#[test]
fn every_error_names_its_flag_and_says_what_to_do() {
    let wrong = [
        "--namespaces=Team_A",
        "--runner-image=two words",
        "--report-url=https://outside",
        "--leader-election",
        "--default-store={",
        r#"--default-store={"uri": "s3://bucket", "volume": {"claimName": "c"}}"#,
        r#"--default-store={"volume": {"claimName": "c"}, "credentials": {"secretName": "s"}}"#,
        r#"--default-store={"uri": "s3://bucket", "endpoint": "http://store", "s3": {"endpont": "http://store"}}"#,
        r#"--default-store={"uri": "s3://bucket"} x"#,
        "--default-resources=7",
        r#"--default-resources={"request": {"cpu": "1"}}"#,
        "--default-timeout=soon",
        "--pod-ttl=",
        "--run-as-user=0",
        "--run-as-user=nobody",
        "--concurrency=0",
        "--log-level=trainyard=loud",
    ];
    let said: Vec<_> = wrong
        .iter()
        .map(|flag| {
            let image = if flag.starts_with("--runner-image") { vec![] } else { vec!["--runner-image=i"] };
            let error = Settings::try_from(parse(&[image, vec![*flag]].concat())).unwrap_err().to_string();
            let name = flag.split('=').next().unwrap();
            assert!(error.starts_with(name), "{flag}: {error}");
            format!("{flag}\n    {error}")
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn without_an_identity_the_host_and_the_process_are_one() {
    let identity = Settings::try_from(parse(&["--runner-image=i", "--identity="])).unwrap().identity;
    assert!(identity.ends_with(&format!("-{}", std::process::id())), "{identity}");
}
