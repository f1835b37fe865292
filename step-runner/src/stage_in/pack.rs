//! Files from a pack: a range of it is fetched into memory, every file in it verified, then each is written.

use std::io::Write as _;
use std::sync::Arc;

use step_protocol::ManifestFile;

use super::artifact::{TRIES, listed_but_gone, mismatch};
use super::contents::Range;
use super::place::Place;
use super::{InputError, corrupt};
use crate::digest;
use crate::store::{InMemory, Store, StoreError};

/// Fetches the range and writes its files into `place`. Of a range with a wrong byte nothing is written.
pub(super) async fn fetch(store: &Store, prefix: &str, range: Range, place: &Arc<Place>) -> Result<(), InputError> {
    let Range { pack, start, end, files } = range;
    let key = format!("{prefix}/{pack}");
    let name = store.name(&key);
    let files = Arc::new(files);
    let mut last = String::new();
    for _ in 0..TRIES {
        let bytes = if start == end {
            // Empty files: a range of no bytes cannot be asked for.
            InMemory::default()
        } else {
            match store.fetch_range(&key, start..end).await {
                Ok(bytes) => bytes,
                Err(StoreError::Corrupt { detail, .. }) => {
                    last = format!("{name}: {detail}, after {TRIES} tries: run the producer again");
                    continue;
                }
                Err(StoreError::NotFound { object }) => return Err(listed_but_gone(&object)),
                Err(error) => return Err(error.into()),
            }
        };
        let (files, place) = (files.clone(), place.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(&files, start, &bytes, &place));
        match unpacking.await.map_err(|_| StoreError::Stopped)?? {
            None => return Ok(()),
            Some(Wrong { path, expected, found }) => {
                last = mismatch(&format!("{path} in {name}"), &expected, &found);
            }
        }
    }
    Err(corrupt(last))
}

/// A file that is not what the manifest says.
struct Wrong {
    path: String,
    expected: String,
    found: String,
}

/// Writes the files whose bytes begin at `start`, if all of them have their digests.
fn unpack(files: &[(u64, ManifestFile)], start: u64, bytes: &[u8], place: &Place) -> Result<Option<Wrong>, InputError> {
    let of = |offset: u64, size: u64| {
        let begin = usize::try_from(offset.checked_sub(start)?).ok()?;
        bytes.get(begin..begin.checked_add(usize::try_from(size).ok()?)?)
    };
    let mut verified = Vec::with_capacity(files.len());
    for (offset, file) in files {
        let part = of(*offset, file.size);
        let found = part.map_or_else(|| "of no bytes".to_owned(), digest::sha256);
        match part.filter(|_| found == file.digest) {
            Some(part) => verified.push((file, part)),
            None => return Ok(Some(Wrong { path: file.path.clone(), expected: file.digest.clone(), found })),
        }
    }
    for (file, part) in verified {
        let (_, mut target) = place.create(&file.path, file.executable)?;
        target.write_all(part).map_err(|error| place.failed(&file.path, error))?;
    }
    Ok(None)
}
