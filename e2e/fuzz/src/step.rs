//! A step in the container's variables: each line is one of them.

use std::collections::BTreeMap;

use step_protocol::{StepSpec, paths};

/// Any bytes.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let name = |n: usize| if n == 0 { paths::ENV_SPEC.to_owned() } else { format!("{}_{n}", paths::ENV_SPEC) };
    let variables: BTreeMap<String, String> =
        text.lines().enumerate().map(|(n, line)| (name(n), line.to_owned())).collect();
    let step = match StepSpec::from_env(&variables) {
        Ok(step) => step,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains(paths::ENV_SPEC) || message.contains("protocol version"), "{message}");
            return;
        }
    };
    let written = step.to_env().unwrap();
    assert!(written.iter().all(|(_, value)| !value.contains('$') && value.len() <= paths::ENV_SPEC_CHUNK));
    assert_eq!(StepSpec::from_env(&written.into_iter().collect()).unwrap(), step);
}
