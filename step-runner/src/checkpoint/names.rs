//! Which checkpoints there are in the store, and which of them go.

use std::collections::{BTreeMap, BTreeSet};

use step_protocol::{CheckpointName, paths};

use crate::store::{Store, StoreError};

/// The checkpoints below a prefix.
#[derive(Debug, Default)]
pub(super) struct Listed(BTreeMap<CheckpointName, Vec<String>>);

/// Lists them. Objects that belong to none are passed over.
pub(super) async fn list(store: &Store, prefix: &str) -> Result<Listed, StoreError> {
    let keys = store.list(&format!("{prefix}/")).await?.into_iter().map(|(key, _)| key);
    Ok(Listed::of(keys))
}

impl Listed {
    fn of(keys: impl IntoIterator<Item = String>) -> Self {
        let mut listed: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for key in keys {
            if let Some((name, file)) = key.split_once('/')
                && let Ok(name) = name.parse()
            {
                listed.entry(name).or_default().push(file.to_owned());
            }
        }
        Self(listed)
    }

    /// Those whose manifest, which is written last, is there; the newest first.
    pub(super) fn complete(&self) -> impl Iterator<Item = CheckpointName> {
        let complete = |files: &Vec<String>| files.iter().any(|file| file == paths::MANIFEST);
        self.0.iter().rev().filter(move |(_, files)| complete(files)).map(|(name, _)| *name)
    }

    /// The number that the execution's next checkpoint has.
    pub(super) fn next(&self, execution: u32) -> u32 {
        let last = self.0.keys().rfind(|name| name.execution == execution);
        last.map_or(1, |name| name.sequence.saturating_add(1))
    }

    /// The objects that go after `done` is complete, in the order in which they are to be deleted: first the manifest, so that a
    /// checkpoint that is half gone is none.
    ///
    /// Of what was written before it, only the newest complete ones stay, `keep` with itself. What another execution writes after it
    /// is none of its business.
    pub(super) fn outdated(&self, done: CheckpointName, keep: u32) -> Vec<String> {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).max(1);
        let kept: BTreeSet<_> = self.complete().filter(|name| *name <= done).take(keep).collect();
        let mut keys = Vec::new();
        for (name, files) in self.0.iter().filter(|(name, _)| **name < done && !kept.contains(name)) {
            let (manifest, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| *file == paths::MANIFEST);
            keys.extend(manifest.into_iter().chain(others).map(|file| format!("{name}/{file}")));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(execution: u32, sequence: u32) -> CheckpointName {
        CheckpointName { execution, sequence }
    }

    fn listed(keys: &[&str]) -> Listed {
        Listed::of(keys.iter().map(|key| (*key).to_owned()))
    }

    #[test]
    fn the_newest_complete_one_comes_first() {
        let listed = listed(&[
            "000001-000009/manifest.json",
            "000002-000001/manifest.json",
            "000002-000001/weights",
            "000002-000002/weights",
            "000002-000003/manifest.json/x",
            "notes.txt",
            "000003-1/manifest.json",
        ]);
        assert_eq!(listed.complete().collect::<Vec<_>>(), [name(2, 1), name(1, 9)]);
        assert_eq!((listed.next(1), listed.next(2), listed.next(3)), (10, 4, 1));
    }

    #[test]
    fn older_ones_go_with_their_manifest_first_and_newer_ones_stay() {
        let listed = listed(&[
            "000001-000001/a",
            "000001-000001/manifest.json",
            "000001-000002/a",
            "000001-000003/manifest.json",
            "000001-000004/a",
            "000001-000004/manifest.json",
            "000002-000001/a",
        ]);
        let outdated = listed.outdated(name(1, 4), 2);
        assert_eq!(outdated, ["000001-000001/manifest.json", "000001-000001/a", "000001-000002/a"]);
        assert_eq!(listed.outdated(name(1, 4), 0).len(), 4, "the one that is complete stays");
        assert!(listed.outdated(name(1, 4), u32::MAX).iter().all(|key| key.starts_with("000001-000002")));
        assert_eq!(listed.outdated(name(1, 1), 1), Vec::<String>::new());
    }
}
