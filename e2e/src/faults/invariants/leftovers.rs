//! I8, I11, I12: what a case leaves behind, on the API server and on disk.

use super::pods::phase;
use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version, is_task};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use step_protocol::paths;

/// What is found in the files of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Temporary files in the store.
    pub temporary: Vec<String>,
    /// Files in which the store's secret key stands.
    pub secrets: Vec<String>,
    /// Lines of logs that tell of a panic.
    pub panics: Vec<String>,
    /// The records of the store's registry of models, by their keys.
    pub registry: BTreeMap<String, Value>,
}

impl Files {
    /// Reads logs, termination messages and the store of a case.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(folder: &Path, store: &Path, secret: &str) -> Result<Self> {
        let mut files = Self::default();
        for path in all(store)? {
            let key = path.strip_prefix(store).unwrap_or(&path).display().to_string();
            // What a volume's writes are called before they are renamed.
            let is_temporary =
                |part: &str| part.rsplit_once('#').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
            if key.split('/').any(is_temporary) {
                files.temporary.push(key);
            } else if key.split('/').any(|part| part == paths::MODELS) {
                let record = serde_json::from_slice(&fs::read(&path)?).unwrap_or_default();
                files.registry.insert(key, record);
            }
        }
        let mut found = all(folder)?;
        found.extend(all(store)?);
        for path in found {
            let name = path.display().to_string();
            let bytes = fs::read(&path).with_context(|| name.clone())?;
            let text = String::from_utf8_lossy(&bytes);
            if text.contains(secret) {
                files.secrets.push(name.clone());
            }
            let is_log = path.extension().is_some_and(|extension| extension == "log") || path.ends_with("log");
            files.panics.extend(text.lines().filter(|line| is_log && line.contains("panicked at")).map(str::to_owned));
        }
        Ok(files)
    }
}

/// Every regular file below a folder.
fn all(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// I8: of a run that ended well or was deleted no Pod is left, and the store holds nothing temporary. A runner that was killed
/// in the middle may leave what it was writing: nobody reads it.
pub(super) fn nothing_is_left(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut last: BTreeMap<&str, &Version> = BTreeMap::new();
    for version in evidence.history.versions(Kind::Pod) {
        last.insert(version.uid(), version);
    }
    // Of looks L2 speaks.
    let left = last.values().filter(|version| !is_task(&version.object)).filter(|version| {
        let stays = phase(&version.object) == "Failed" || evidence.has_class('E');
        version.change != Change::Deleted && !(stays && evidence.workload.end != "Deleted")
    });
    let mut found: Vec<Violation> = left
        .map(|version| Violation::new("I8", format!("Pod {} is left, {}", version.name(), phase(&version.object))))
        .collect();
    if !evidence.has_class('G') && !evidence.has_class('E') && evidence.workload.during.is_none() {
        found.extend(
            evidence.files.temporary.iter().map(|key| Violation::new("I8", format!("the store is left with {key}"))),
        );
    }
    found
}

/// I11: the secret key of the store stands in no log, message, object, Event or artifact.
pub(super) fn secrets_are_kept(evidence: Evidence<'_>) -> Vec<Violation> {
    evidence
        .files
        .secrets
        .iter()
        .map(|path| Violation::new("I11", format!("the store's secret key stands in {path}")))
        .collect()
}

/// I12: nothing panics.
pub(super) fn nothing_panics(evidence: Evidence<'_>) -> Vec<Violation> {
    evidence.files.panics.iter().map(|line| Violation::new("I12", line.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_pod_that_is_left_is_seen() {
        let mut world = World::chain();
        world.pod("second", 2, "uid-left", Change::Added, "Succeeded", Value::Null);
        assert!(one(&world.check(), "I8").ends_with("is left, Succeeded"));
    }

    #[test]
    fn what_lies_in_files_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (case, store) = (folder.path().join("case"), folder.path().join("store"));
        fs::create_dir_all(case.join("pods")).unwrap();
        fs::create_dir_all(store.join("a")).unwrap();
        fs::write(case.join("operator-1.log"), "x\nthread 'main' panicked at y.rs:1\n").unwrap();
        fs::write(case.join("pods/log"), "the key is s3cr3t").unwrap();
        fs::write(store.join("a/COMMIT#1"), "").unwrap();
        fs::write(store.join("a/COMMIT"), "panicked at").unwrap();
        let files = Files::read(&case, &store, "s3cr3t").unwrap();
        assert_eq!(files.temporary, ["a/COMMIT#1"]);
        assert_eq!(files.panics, ["thread 'main' panicked at y.rs:1"]);
        assert_eq!(files.secrets.len(), 1);
        let mut world = World::chain();
        world.files = files;
        let found = world.check();
        for invariant in ["I8", "I11", "I12"] {
            one(&found, invariant);
        }
    }
}
