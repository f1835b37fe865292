//! What is run under faults.

use serde_json::{Value, json};

/// A pipeline, and what the invariants have to know of it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Part of the names of its cases.
    pub name: &'static str,
    /// `spec` of the Pipeline.
    pub pipeline: Value,
    /// Its stages, in order.
    pub stages: Vec<Stage>,
    /// Whether runners reach the operator. If not, success is known only when the kubelet shows it.
    pub early_reports: bool,
}

/// A stage, as far as the invariants are concerned.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// The stages that must have committed before its Pod may exist.
    pub needs: Vec<&'static str>,
    /// How often it may be repeated after a failure of its own.
    pub retries: u32,
}

/// Where a volume stands for the store; the test kubelet has its folder.
fn store() -> Value {
    json!({"volume": {"claimName": "store"}})
}

impl Workload {
    /// Every workload of the sweep.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::chain3(), Self::chain3_silent()]
    }

    /// The workload of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|workload| workload.name == name)
    }

    /// Three stages, each of which adds a line to what the one before has written.
    #[must_use]
    pub fn chain3() -> Self {
        let names = ["first", "second", "third"];
        let stage = |(index, name): (usize, &&'static str)| {
            let before = index.checked_sub(1).map(|before| names[before]);
            let input = before.map(|before| json!([{"name": "before", "from": format!("{before}.text")}]));
            let read = if before.is_some() { "cat \"$TRAINYARD_IN_BEFORE\"\n" } else { "" };
            let script = format!(
                "#!/bin/sh\nset -e\n{{\n{read}echo \"$1\"\n}} > \"$TRAINYARD_OUT_TEXT\"\n\
                 grep -c . \"$TRAINYARD_OUT_TEXT\" > \"$TRAINYARD_ROOT/results/lines\"\n"
            );
            // What the stage before has counted goes by parameters, what it has written by the store.
            let argument = before.map_or_else(|| "0".to_owned(), |before| format!("$(stages.{before}.results.lines)"));
            let mut stage = json!({
                "name": name,
                "container": {"image": "localhost/none:1", "script": script, "args": [argument]},
                "outputs": [{"name": "text", "type": "Text"}],
                "results": [{"name": "lines", "type": "integer"}],
            });
            if let Some(input) = input {
                stage["inputs"] = input;
            }
            stage
        };
        let stages: Vec<Value> = names.iter().enumerate().map(stage).collect();
        let known = |(index, name): (usize, &&'static str)| Stage {
            name,
            needs: index.checked_sub(1).map(|before| names[before]).into_iter().collect(),
            retries: 0,
        };
        Self {
            name: "chain3",
            pipeline: json!({"store": store(), "stages": stages}),
            stages: names.iter().enumerate().map(known).collect(),
            early_reports: true,
        }
    }

    /// The same without early reports: every hop waits for the kubelet, and status is written at every hop.
    #[must_use]
    pub fn chain3_silent() -> Self {
        Self { name: "chain3-silent", early_reports: false, ..Self::chain3() }
    }

    /// The stage of that name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }
}
