//! An output of another stage: commit record, manifest, files, each checked against the digest that the one before names.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use step_protocol::{CommitRecord, Manifest, ManifestFile, paths};

use super::place::Place;
use super::{InputError, corrupt};
use crate::beneath;
use crate::digest;
use crate::store::{Expected, Store, StoreError};

/// How often bytes that do not have their digest are fetched again.
pub(super) const TRIES: u32 = 3;
/// Files that are fetched at the same time; their bytes are bounded by the store.
const FILES: usize = 32;

/// Fetches the output into `<directory>/<name>`.
pub(super) async fn fetch(
    store: &Store,
    record: &CommitRecord,
    output: &str,
    digest: Option<&str>,
    directory: &Path,
    name: &str,
) -> Result<(), InputError> {
    let committed = record.outputs.iter().find(|committed| committed.name == output).ok_or_else(|| {
        InputError::Missing(format!("the commit record of the stage {:?} has no output {output:?}", record.stage))
    })?;
    if let Some(digest) = digest
        && digest != committed.digest
    {
        return Err(corrupt(format!(
            "the output {output:?} of the stage {:?} has the digest {} in its commit record, and the run knows {digest}",
            record.stage, committed.digest
        )));
    }
    let manifest = read_manifest(store, &committed.prefix, &committed.digest).await?;
    check(&manifest, output).map_err(|why| {
        corrupt(format!("the manifest {} is not safe: {why}", store.name(&manifest_key(&committed.prefix))))
    })?;
    let place = Place::prepare(directory, name, manifest.directory)?;
    let (place, prefix) = (&place, committed.prefix.as_str());
    stream::iter(&manifest.files)
        .map(|file| async move { fetch_file(store, prefix, file, place, manifest.directory).await })
        .buffer_unordered(FILES)
        .try_collect::<()>()
        .await?;
    place.finish()?;
    Ok(())
}

fn manifest_key(prefix: &str) -> String {
    format!("{prefix}/{}", paths::MANIFEST)
}

async fn read_manifest(store: &Store, prefix: &str, expected: &str) -> Result<Manifest, InputError> {
    let key = manifest_key(prefix);
    let mut found = String::new();
    for _ in 0..TRIES {
        let bytes = store.read(&key).await?.ok_or_else(|| {
            InputError::Missing(format!("{} does not exist; it was deleted: run the producer again", store.name(&key)))
        })?;
        found = digest::sha256(&bytes);
        if found == expected {
            return serde_json::from_slice(&bytes)
                .map_err(|error| corrupt(format!("the manifest {} cannot be read: {error}", store.name(&key))));
        }
    }
    Err(corrupt(mismatch(&store.name(&key), expected, &found)))
}

fn mismatch(object: &str, expected: &str, found: &str) -> String {
    format!("{object} has the digest {found} instead of {expected} after {TRIES} tries: run the producer again")
}

/// A manifest comes from outside: every path is one below the input, and none twice or below another file.
fn check(manifest: &Manifest, output: &str) -> Result<(), String> {
    if manifest.version > step_protocol::VERSION {
        return Err(format!("it has protocol version {}", manifest.version));
    }
    if !manifest.directory && manifest.files.len() != 1 {
        return Err(format!("it is of a single file and lists {}", manifest.files.len()));
    }
    let mut seen = BTreeSet::new();
    for file in &manifest.files {
        beneath::check_relative(&file.path).map_err(|why| format!("the path {:?}: {why}", file.path))?;
        if !seen.insert(file.path.as_str()) {
            return Err(format!("the path {:?} is listed twice", file.path));
        }
    }
    if !manifest.directory && !seen.contains(output) {
        return Err(format!("its single file is not called {output:?}"));
    }
    for path in &seen {
        let mut above = *path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if seen.contains(parent) {
                return Err(format!("the path {path:?} is below the file {parent:?}"));
            }
            above = parent;
        }
    }
    Ok(())
}

async fn fetch_file(
    store: &Store,
    prefix: &str,
    file: &ManifestFile,
    place: &Place,
    directory: bool,
) -> Result<(), InputError> {
    let key = format!("{prefix}/{}", paths::object_name(&file.path));
    let name = store.name(&key);
    let expected = Expected { size: file.size, etag: None };
    let mut last = String::new();
    for _ in 0..TRIES {
        // A single file is placed under the input's own name.
        let (slot, target) = place.create(if directory { &file.path } else { "" }, file.executable)?;
        match store.fetch(&key, &expected, target).await {
            Ok(found) if found == file.digest => return Ok(()),
            Ok(found) => last = mismatch(&name, &file.digest, &found),
            Err(StoreError::Corrupt { detail, .. }) => {
                last = format!(
                    "{name} with the digest {}: {detail}, after {TRIES} tries: run the producer again",
                    file.digest
                );
            }
            Err(StoreError::NotFound { object }) => {
                place.discard(slot);
                let message = format!("{object} does not exist, though its manifest lists it; run the producer again");
                return Err(InputError::Other(crate::failure::Failure::new(
                    step_protocol::Outcome::InputMissing,
                    message,
                )));
            }
            Err(error) => {
                place.discard(slot);
                return Err(error.into());
            }
        }
        place.discard(slot);
    }
    Err(corrupt(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(directory: bool, paths: &[&str]) -> Manifest {
        let file =
            |path: &&str| ManifestFile { path: (*path).to_owned(), size: 0, digest: String::new(), executable: false };
        Manifest { version: 1, directory, files: paths.iter().map(file).collect() }
    }

    #[test]
    fn hostile_manifests_are_refused() {
        for (paths, why) in [
            (&["../x"][..], "`..`"),
            (&["/etc/passwd"], "absolute"),
            (&["a//b"], "empty"),
            (&["a", "a"], "twice"),
            (&["a/b", "a"], "below the file"),
            (&["a/b/c/d", "a/b"], "below the file"),
        ] {
            let refused = check(&manifest(true, paths), "out").unwrap_err();
            assert!(refused.contains(why), "{paths:?}: {refused}");
        }
        assert!(check(&manifest(false, &["other"]), "out").is_err());
        assert!(check(&manifest(false, &["out", "other"]), "out").is_err());
        assert_eq!(check(&manifest(false, &["out"]), "out"), Ok(()));
        assert_eq!(check(&manifest(true, &["a/b", "a.b", "a-b/c"]), "out"), Ok(()));
        assert_eq!(check(&manifest(true, &[]), "out"), Ok(()));
    }
}
