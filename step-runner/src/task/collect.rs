//! Artifacts that nothing refers to, deleted.
//!
//! Below a pipeline's prefix each directory `<run>.<UID>` is a run's; all else is left alone. It is kept while its run is known, while
//! a version of a model has its files there, and for some time after the last write. Whose name is the pipeline's may be a run with a
//! pipeline of its own, of which nobody asks here, and is left alone, too. Commit records are deleted before the rest:
//! nobody adopts then what is half gone. A task that ends in between is gone on with by the next.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use step_protocol::{CollectSpec, Collected, Outcome, paths};

use crate::failure::Failure;
use crate::store::{Store, StoreError};

/// What lies in a run's directory.
#[derive(Default)]
struct Contents {
    /// Keys of commit records, below the directory.
    commits: Vec<String>,
    /// All others.
    others: Vec<String>,
    bytes: u64,
    newest: Option<SystemTime>,
}

/// Deletes what is not kept, or says what would be.
pub(super) async fn collect(store: &Store, spec: &CollectSpec) -> Result<Collected, Failure> {
    let prefix = spec.prefix.as_str();
    if prefix.is_empty() || prefix.split('/').any(str::is_empty) {
        return Err(Failure::config(format!("the prefix {prefix:?} is not that of a pipeline")));
    }
    let pipeline = prefix.rsplit('/').next().unwrap_or(prefix);
    if pipeline == paths::JOBS {
        return Err(Failure::config(format!(
            "below {prefix} lie artifacts of TrainingJobs, which are not this Pipeline's: nothing is deleted; rename the Pipeline"
        )));
    }
    let grace = Duration::from_secs(spec.grace_seconds);
    let known: BTreeSet<&str> = spec.runs.iter().map(String::as_str).collect();
    // Before anything is deleted: what cannot be read may refer to anything.
    let referred = referred(store, prefix).await?;
    let mut collected = Collected::default();
    for directory in store.directories(&format!("{prefix}/")).await? {
        let Some((run, uid)) = run_of(&directory) else { continue };
        if run == pipeline {
            continue;
        }
        if known.contains(uid) || referred.contains(&directory) {
            collected.kept += 1;
            continue;
        }
        let contents = look_through(store, &format!("{prefix}/{directory}")).await?;
        // On a volume a directory may be left.
        let Some(newest) = contents.newest else { continue };
        if is_young(newest, grace) {
            collected.kept += 1;
            continue;
        }
        let (objects, bytes) = (contents.commits.len() + contents.others.len(), contents.bytes);
        let mut done = "would delete";
        if !spec.dry_run {
            store.remove(&contents.commits).await?;
            store.remove(&contents.others).await?;
            done = "deleted";
        }
        // Whoever reads the Pod's log may have gone.
        let _ = writeln!(std::io::stdout(), "{done} {directory}: {objects} objects, {bytes} bytes");
        collected.runs += 1;
        collected.objects += objects as u64;
        collected.bytes = collected.bytes.saturating_add(bytes);
    }
    Ok(collected)
}

/// Whether it is not old enough to be deleted. What was written by a clock that is ahead of ours is young.
fn is_young(newest: SystemTime, grace: Duration) -> bool {
    SystemTime::now().duration_since(newest).map_or(true, |age| age < grace)
}

/// Name and UID of the run in the name of its directory; `None` for any other name.
///
/// A directory of somebody else could have a dot as well, `backup.old`: so the UID must be of the form that Kubernetes gives, and
/// the rest the name of an object.
fn run_of(directory: &str) -> Option<(&str, &str)> {
    let (run, uid) = directory.rsplit_once('.')?;
    let is_name = !run.is_empty()
        && run.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    let groups: Vec<&str> = uid.split('-').collect();
    let is_uid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_name && is_uid).then_some((run, uid))
}

/// As much of a version's record as says where its files lie.
#[derive(Deserialize)]
struct Reference {
    protocol: u32,
    output: ReferredOutput,
}

#[derive(Deserialize)]
struct ReferredOutput {
    prefix: String,
}

/// The directories of runs that versions of the pipeline's models have their files in.
async fn referred(store: &Store, prefix: &str) -> Result<BTreeSet<String>, Failure> {
    let models = format!("{prefix}/{}/", paths::MODELS);
    let is_record = |key: &str| matches!(key.split('/').collect::<Vec<_>>()[..], [_, _, paths::MODEL]);
    let records = store.scan(&models, Vec::new, |records, key, _| {
        if is_record(&key) {
            records.push(key);
        }
    });
    let mut directories = BTreeSet::new();
    for record in records.await? {
        let key = format!("{models}{record}");
        let refused = |why: String| {
            let message = format!(
                "{why}; nothing is deleted, since it may refer to anything: put back what was there, or delete it"
            );
            Failure::new(Outcome::ArtifactCorrupt, message)
        };
        let bytes = match store.read_bounded(&key).await {
            Ok(Some(bytes)) => bytes,
            // Somebody deletes a version meanwhile.
            Ok(None) => continue,
            Err(StoreError::Corrupt { object, detail }) => {
                return Err(refused(format!("the record {object}: {detail}")));
            }
            Err(error) => return Err(error.into()),
        };
        let reference: Reference = serde_json::from_slice(&bytes)
            .map_err(|error| refused(format!("the record {} cannot be read: {error}", store.name(&key))))?;
        if reference.protocol > step_protocol::VERSION {
            return Err(Failure::config(format!(
                "the record {} has protocol version {} and this runner speaks {}: a newer release wrote it, and nothing is deleted",
                store.name(&key),
                reference.protocol,
                step_protocol::VERSION
            )));
        }
        let below = reference.output.prefix.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
        let directory = below.and_then(|below| below.split('/').next());
        directories.extend(directory.map(str::to_owned));
    }
    Ok(directories)
}

async fn look_through(store: &Store, directory: &str) -> Result<Contents, Failure> {
    let is_commit = |key: &str| key.rsplit('/').next() == Some(paths::COMMIT);
    let below = format!("{directory}/");
    let contents = store.scan(&below, Contents::default, |contents, key, meta| {
        let keys = if is_commit(&key) { &mut contents.commits } else { &mut contents.others };
        keys.push(format!("{directory}/{key}"));
        contents.bytes = contents.bytes.saturating_add(meta.size);
        contents.newest = contents.newest.max(Some(SystemTime::from(meta.last_modified)));
    });
    Ok(contents.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_of_a_run_is_one() {
        let uid = "6f1c0b1e-aF00-4000-8000-000000000001";
        for name in ["iris-1", "iris.v2-x", "1"] {
            assert_eq!(run_of(&format!("{name}.{uid}")), Some((name, uid)));
        }
        let odd = |uid: &str| format!("iris-1.{uid}");
        for stranger in [
            "models".to_owned(),
            "ledger".into(),
            "backup.old".into(),
            uid.into(),
            format!(".{uid}"),
            format!("My Files.{uid}"),
            odd(&uid[1..]),
            odd(&format!("{uid}0")),
            odd(&uid.replace('-', "")),
            odd(&uid.replace('f', "g")),
        ] {
            assert_eq!(run_of(&stranger), None, "{stranger}");
        }
    }

    #[test]
    fn what_is_ahead_of_our_clock_is_young() {
        let now = SystemTime::now();
        let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
        assert!(is_young(now + day, Duration::ZERO) && is_young(now - hour, day));
        assert!(!is_young(now - day, hour) && !is_young(now - hour, Duration::ZERO));
    }
}
