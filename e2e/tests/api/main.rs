//! What the API server makes of the CustomResourceDefinitions: every object here is sent to a real one.
//!
//! * [`corpus`]: objects and edits with the answer that is expected, one row each, in `corpus.yaml`;
//! * [`bounds`]: every bound of the schema, at it and one past it, from the schema itself and `samples.yaml`;
//! * [`kubectl`]: what a user sees of it: apply, diff, explain, columns;
//! * [`size`]: how large a pipeline may be, and what a status write costs then.
//!
//! Everything is a dry run where that is enough. `server` says which cluster it is.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod bounds;
mod corpus;
mod kubectl;
mod server;
mod size;
mod table;

use serde_json::Value;

/// A YAML file of this folder or of the repository.
fn yaml(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic_with(path, &error.to_string()))
}

#[expect(clippy::panic, reason = "a file of the tests themselves is wrong")]
fn panic_with(path: &std::path::Path, error: &str) -> Value {
    panic!("{}: {error}", path.display())
}

/// The folder of these tests.
fn here() -> std::path::PathBuf {
    e2e::paths::repository().join("e2e/tests/api")
}

/// A definition as it is committed: its `spec` schema.
fn spec_schema(file: &str) -> Value {
    let crd = yaml(&e2e::paths::repository().join("crds/yaml").join(file));
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap().clone()
}
