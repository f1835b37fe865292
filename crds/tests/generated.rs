//! The committed definitions and the reference are what the types give.

use std::process::Command;

#[test]
fn what_is_committed_is_fresh() {
    let output = Command::new(env!("CARGO_BIN_EXE_crdgen")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_stale_file_is_told() {
    let nowhere = concat!(env!("CARGO_MANIFEST_DIR"), "/no-such-folder");
    let output = Command::new(env!("CARGO_BIN_EXE_crdgen")).args(["--check", "--directory", nowhere]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("pipelines.yaml is stale: run `make generate`"), "{said}");
    assert!(!std::path::Path::new(nowhere).exists(), "a check writes nothing");
}
