//! An output of another stage: commit record, manifest, files, each checked against the digest that the one before names.

use std::path::Path;
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use step_protocol::{CommitRecord, CommittedOutput, Manifest, ManifestFile, Outcome, paths};

use super::contents::Contents;
use super::place::Place;
use super::{InputError, corrupt, pack, seal};
use crate::digest;
use crate::failure::Failure;
use crate::store::{Expected, Store, StoreError};

/// How often bytes that do not have their digest are fetched again.
pub(super) const TRIES: u32 = 3;
/// Objects that are fetched at the same time; their bytes are bounded by the store.
const OBJECTS: usize = 32;

/// Fetches the output into `<directory>/<name>`.
pub(super) async fn fetch(
    store: &Store,
    record: &CommitRecord,
    output: &str,
    digest: Option<&str>,
    directory: &Path,
    name: &str,
) -> Result<(), InputError> {
    let committed = find(record, output, digest)?;
    fetch_at(store, &committed.prefix, &committed.digest, output, directory, name).await
}

/// Fetches the output at a prefix, whose manifest has this digest, into `<directory>/<name>`.
pub(super) async fn fetch_at(
    store: &Store,
    prefix: &str,
    digest: &str,
    output: &str,
    directory: &Path,
    name: &str,
) -> Result<(), InputError> {
    let manifest = read_manifest(store, prefix, digest).await?;
    fetch_all(store, prefix, manifest, output, directory, name).await
}

/// The output in a commit record, if it has the digest that the operator knows.
pub(super) fn find<'a>(
    record: &'a CommitRecord,
    output: &str,
    digest: Option<&str>,
) -> Result<&'a CommittedOutput, InputError> {
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
    Ok(committed)
}

/// Whether the manifest of an output is there and has its digest.
pub(super) async fn check(store: &Store, committed: &CommittedOutput) -> Result<(), InputError> {
    read_manifest(store, &committed.prefix, &committed.digest).await.map(drop)
}

/// Fetches what a manifest with a checksum of its own names.
pub(super) async fn restore(store: &Store, prefix: &str, directory: &Path, name: &str) -> Result<(), InputError> {
    let key = manifest_key(prefix);
    let mut why = String::new();
    for _ in 0..TRIES {
        let bytes = store.read(&key).await?;
        let bytes = bytes.ok_or_else(|| InputError::Missing(format!("{} does not exist", store.name(&key))))?;
        match seal::verify(&bytes) {
            Ok(()) => match serde_json::from_slice(&bytes) {
                Ok(manifest) => return fetch_all(store, prefix, manifest, name, directory, name).await,
                Err(error) => why = error.to_string(),
            },
            Err(found) => why = format!("its bytes have the checksum {found}, which is not the one that it names"),
        }
    }
    Err(corrupt(format!("the manifest {} cannot be read: {why}", store.name(&key))))
}

/// Fetches every file of the manifest of `output` into `<directory>/<name>`.
async fn fetch_all(
    store: &Store,
    prefix: &str,
    manifest: Manifest,
    output: &str,
    directory: &Path,
    name: &str,
) -> Result<(), InputError> {
    let Contents { directory: is_directory, files, ranges } = Contents::of(manifest, output)
        .map_err(|why| corrupt(format!("the manifest {} is not safe: {why}", store.name(&manifest_key(prefix)))))?;
    let place = Arc::new(Place::prepare(directory, name, is_directory)?);
    let place = &place;
    let files = stream::iter(files)
        .map(|file| async move { fetch_file(store, prefix, &file, place, is_directory).await }.boxed())
        .boxed();
    let ranges = stream::iter(ranges).map(|range| pack::fetch(store, prefix, range, place).boxed()).boxed();
    // In turns, so that neither waits for the other.
    stream::select(files, ranges).buffer_unordered(OBJECTS).try_collect::<()>().await?;
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

pub(super) fn mismatch(object: &str, expected: &str, found: &str) -> String {
    format!("{object} has the digest {found} instead of {expected} after {TRIES} tries: run the producer again")
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
                return Err(listed_but_gone(&object));
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

/// What a manifest lists is not optional.
pub(super) fn listed_but_gone(object: &str) -> InputError {
    let message = format!("{object} does not exist, though its manifest lists it; run the producer again");
    InputError::Other(Failure::new(Outcome::InputMissing, message))
}
