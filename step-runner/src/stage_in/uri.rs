//! An input by URI: one object, or everything below a prefix. No digest is known; all parts must be of one version.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectMeta;

use super::place::Place;
use super::{InputError, corrupt};
use crate::beneath;
use crate::store::{Expected, Opener, Store, StoreError};

/// Fetches what `uri` names into `<directory>/<name>`.
pub(super) async fn fetch(opener: &Opener, uri: &str, directory: &Path, name: &str) -> Result<(), InputError> {
    let (store, key) = opener.input(uri)?;
    if uri.ends_with('/') {
        fetch_prefix(&store, &key, uri, directory, name).await
    } else {
        fetch_object(&store, &key, uri, directory, name).await
    }
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
    for _ in 0..super::artifact::TRIES {
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
