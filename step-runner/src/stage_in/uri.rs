//! An input by URI: one object, or everything below a prefix. No digest is known; all parts must be of one version. What a stage has
//! written is known all the same: its commit record lies beside it.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectMeta;
use step_protocol::{CommittedOutput, paths};

use super::place::Place;
use super::record::read_record;
use super::{InputError, artifact, corrupt};
use crate::beneath;
use crate::store::{Expected, Opener, Store, StoreError};

/// Fetches what `uri` names into `<directory>/<name>`.
pub(super) async fn fetch(opener: &Opener, uri: &str, directory: &Path, name: &str) -> Result<(), InputError> {
    let (store, key) = opener.input(uri)?;
    if !uri.ends_with('/') {
        return fetch_object(&store, &key, uri, directory, name).await;
    }
    let prefix = key.trim_matches('/');
    match committed(&store, prefix).await? {
        Some(output) => artifact::fetch_at(&store, prefix, &output.digest, &output.name, directory, name).await,
        None => fetch_prefix(&store, &key, uri, directory, name).await,
    }
}

/// The output that a stage has committed at this prefix, which is `<stage>/<attempt>/<output>`, if one has. Where a missing object cannot be
/// told from one that may not be read, nothing is known of it.
async fn committed(store: &Store, prefix: &str) -> Result<Option<CommittedOutput>, InputError> {
    let mut parts = prefix.rsplitn(3, '/');
    let (Some(output), Some(attempt), Some(stage)) = (parts.next(), parts.next(), parts.next()) else {
        return Ok(None);
    };
    let Ok(attempt) = attempt.parse::<u32>() else { return Ok(None) };
    let key = paths::commit_key(stage);
    match store.read(&key).await {
        // What is no object of JSON is somebody else's.
        Ok(Some(bytes)) if bytes.starts_with(b"{") => {}
        Ok(_) | Err(StoreError::Denied { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let record = read_record(store, &key).await?;
    let record = record.map(|record| record.record).filter(|record| record.attempt == attempt);
    Ok(record.and_then(|record| record.outputs.into_iter().find(|known| known.name == output)))
}

async fn fetch_object(store: &Store, key: &str, uri: &str, directory: &Path, name: &str) -> Result<(), InputError> {
    let place = Place::prepare(directory, name, false)?;
    let find = || async {
        store.stat(key).await?.ok_or_else(|| {
            InputError::Missing(format!(
                "{uri} does not exist (everything below a prefix is named with a `/` at the end)"
            ))
        })
    };
    fetch_file(store, key, &place, "", find().await?, find).await?;
    place.finish()
}

async fn fetch_prefix(store: &Store, prefix: &str, uri: &str, directory: &Path, name: &str) -> Result<(), InputError> {
    let mut objects = store.list(prefix).await?;
    // Empty objects stand for directories in some tools.
    let keys: BTreeSet<String> = objects.iter().map(|(key, _)| key.clone()).collect();
    objects.retain(|(key, meta)| {
        let below = format!("{key}/");
        meta.size > 0 || !keys.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
    });
    if objects.is_empty() {
        return Err(InputError::Missing(format!("there is no object below {uri}")));
    }
    for (key, _) in &objects {
        beneath::check_relative(key)
            .map_err(|why| corrupt(format!("the key {key:?} below {uri} is not safe: {why}")))?;
    }
    let place = Place::prepare(directory, name, true)?;
    let place = &place;
    stream::iter(objects)
        .map(|(relative, meta)| async move {
            let key = format!("{prefix}{relative}");
            let key = key.trim_start_matches('/');
            let find = || async {
                store.stat(key).await?.ok_or_else(|| InputError::Missing(format!("{} was deleted", store.name(key))))
            };
            fetch_file(store, key, place, &relative, meta, find).await
        })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await?;
    place.finish()
}

/// Fetches one object; when it changes meanwhile, its new version, three times.
async fn fetch_file<F>(
    store: &Store,
    key: &str,
    place: &Place,
    path: &str,
    mut meta: ObjectMeta,
    find: impl Fn() -> F,
) -> Result<(), InputError>
where
    F: Future<Output = Result<ObjectMeta, InputError>>,
{
    let mut last = String::new();
    for _ in 0..artifact::TRIES {
        let (slot, target) = place.create(path, false)?;
        let expected = Expected { size: meta.size, etag: meta.e_tag.clone() };
        match store.fetch(key, &expected, target).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Corrupt { object, detail }) => {
                last = format!("{object} changes while it is read: {detail}")
            }
            Err(error) => {
                place.discard(slot);
                return Err(error.into());
            }
        }
        place.discard(slot);
        meta = find().await?;
    }
    Err(corrupt(last))
}
