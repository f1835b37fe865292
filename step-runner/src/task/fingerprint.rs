//! What lies below a prefix, in one digest: other objects, or other contents of one, make another digest.
//!
//! The digest is SHA-256 over one line for each object, `<key>\t<size>\t<entity tag>\t<version>\n`, sorted by the key's bytes; keys
//! are relative to the prefix. Nothing is read but the listing.

use std::time::SystemTime;

use object_store::ObjectMeta;
use step_protocol::{Fingerprint, FingerprintSpec, Outcome};

use crate::digest::Hasher;
use crate::failure::Failure;
use crate::stage_out::commit::rfc3339;
use crate::store::{Opener, Store};

/// The digest of what `spec` names.
pub(super) async fn take(opener: &Opener, spec: &FingerprintSpec) -> Result<Fingerprint, Failure> {
    let FingerprintSpec { uri, marker } = spec;
    let (store, key) = opener.input(uri)?;
    let now = SystemTime::now();
    if uri.ends_with('/') {
        return Ok(of_prefix(&store, &key, marker.as_deref()).await?.finish(now, marker.is_some()));
    }
    if marker.is_some() {
        let message = format!("{uri} is one object, and a marker lies below a prefix, which ends with a `/`");
        return Err(Failure::config(message));
    }
    let meta = store.stat(&key).await?.ok_or_else(|| {
        let message = format!("{uri} does not exist (everything below a prefix is named with a `/` at the end)");
        Failure::new(Outcome::InputMissing, message)
    })?;
    let mut sum = Sum::new(Lines::streamed());
    let name = key.rsplit('/').next().unwrap_or_default().to_owned();
    sum.add(name, &meta, None);
    Ok(sum.finish(now, false))
}

/// A service lists in the order of the keys, so lines are hashed as they come, in the memory of one page. A directory has no order,
/// and a service may not keep to its promise: then the lines are kept and sorted, some 150 bytes for each object, which is fine up
/// to a million objects.
async fn of_prefix(store: &Store, prefix: &str, marker: Option<&str>) -> Result<Sum, Failure> {
    let scan = |lines: fn() -> Lines| {
        store.scan(prefix, move || Sum::new(lines()), move |sum, key, meta| sum.add(key, &meta, marker))
    };
    if store.lists_in_order() {
        let sum = scan(Lines::streamed).await?;
        if !matches!(sum.lines, Lines::Disordered) {
            return Ok(sum);
        }
    }
    Ok(scan(|| Lines::Kept(Vec::new())).await?)
}

/// The lines so far.
enum Lines {
    /// Hashed, up to that of this key.
    Streamed { hasher: Box<Hasher>, last: Option<String> },
    /// They do not come in order: a digest would depend on it.
    Disordered,
    /// Each by its key.
    Kept(Vec<(String, String)>),
}

impl Lines {
    fn streamed() -> Self {
        Self::Streamed { hasher: Box::new(Hasher::new()), last: None }
    }
}

struct Sum {
    lines: Lines,
    objects: u64,
    bytes: u64,
    newest: Option<SystemTime>,
    marker: bool,
}

impl Sum {
    fn new(lines: Lines) -> Self {
        Self { lines, objects: 0, bytes: 0, newest: None, marker: false }
    }

    fn add(&mut self, key: String, meta: &ObjectMeta, marker: Option<&str>) {
        if marker == Some(key.as_str()) {
            self.marker = true;
            return;
        }
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(meta.size);
        self.newest = self.newest.max(Some(SystemTime::from(meta.last_modified)));
        let or_nothing = |text: &Option<String>| text.clone().unwrap_or_default();
        let rest = format!("{}\t{}\t{}", meta.size, or_nothing(&meta.e_tag), or_nothing(&meta.version));
        match &mut self.lines {
            Lines::Streamed { hasher, last } if last.as_ref().is_none_or(|last| *last < key) => {
                hash(hasher, &key, &rest);
                *last = Some(key);
            }
            Lines::Streamed { .. } => self.lines = Lines::Disordered,
            Lines::Disordered => {}
            Lines::Kept(lines) => lines.push((key, rest)),
        }
    }

    fn finish(self, now: SystemTime, marked: bool) -> Fingerprint {
        let hasher = match self.lines {
            Lines::Streamed { hasher, .. } => *hasher,
            Lines::Disordered => Hasher::new(),
            Lines::Kept(mut lines) => {
                lines.sort();
                let mut hasher = Hasher::new();
                lines.iter().for_each(|(key, rest)| hash(&mut hasher, key, rest));
                hasher
            }
        };
        Fingerprint {
            digest: hasher.finish(),
            objects: self.objects,
            bytes: self.bytes,
            newest: self.newest.map(rfc3339),
            age_seconds: self.newest.map(|newest| now.duration_since(newest).map_or(0, |age| age.as_secs())),
            marker: marked.then_some(self.marker),
        }
    }
}

fn hash(hasher: &mut Hasher, key: &str, rest: &str) {
    for part in [key, "\t", rest, "\n"] {
        hasher.update(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn meta(size: u64, seconds: u64) -> ObjectMeta {
        ObjectMeta {
            location: object_store::path::Path::default(),
            last_modified: (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into(),
            size,
            e_tag: Some(format!("\"{size}\"")),
            version: None,
        }
    }

    fn sum(lines: Lines, objects: &[(String, u64)]) -> Sum {
        let mut sum = Sum::new(lines);
        objects.iter().for_each(|(key, size)| sum.add(key.clone(), &meta(*size, *size), Some("DONE")));
        sum
    }

    proptest! {
        #[test]
        fn streamed_or_sorted_it_is_the_same(
            objects in prop::collection::btree_map("[\u{1}-z]{1,3}|DONE|ä", 0..9_u64, 0..9),
            seed in any::<usize>(),
        ) {
            let objects: Vec<(String, u64)> = objects.into_iter().collect();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
            let streamed = sum(Lines::streamed(), &objects).finish(now, true);
            let mut turned = objects.clone();
            turned.rotate_left(seed % objects.len().max(1));
            prop_assert_eq!(&sum(Lines::Kept(Vec::new()), &turned).finish(now, true), &streamed);
            let others = objects.iter().filter(|(key, _)| key != "DONE").count();
            prop_assert_eq!(streamed.objects, others as u64);
            let disordered = matches!(sum(Lines::streamed(), &turned).lines, Lines::Disordered);
            let without = |all: &[(String, u64)]| all.iter().filter(|(key, _)| key != "DONE").cloned().collect::<Vec<_>>();
            prop_assert_eq!(disordered, without(&turned) != without(&objects));
        }
    }

    #[test]
    fn the_lines_are_what_is_written_above() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let found = sum(Lines::streamed(), &[("DONE".into(), 9), ("a/b".into(), 3), ("c".into(), 0)]).finish(now, true);
        assert_eq!(found.digest, crate::digest::sha256(b"a/b\t3\t\"3\"\t\nc\t0\t\"0\"\t\n"));
        assert_eq!((found.objects, found.bytes, found.age_seconds, found.marker), (2, 3, Some(2), Some(true)));
        assert_eq!(found.newest.as_deref(), Some("1970-01-01T00:00:03.000Z"));
        let late = sum(Lines::streamed(), &[("x".into(), 7)]).finish(now, false);
        assert_eq!((late.age_seconds, late.marker), (Some(0), None), "its clock is ahead of ours");
    }
}
