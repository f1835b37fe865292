//! Names of the objects that the operator creates. They follow from what they stand for, so a repeated create meets itself.

use sha2::{Digest, Sha256};

/// Bytes of hash in a name: 80 bits. With 32 bits a run of 10,000 stages collides once in a hundred runs.
const HASH_BYTES: usize = 10;

/// The first 80 bits of SHA-256 over length-prefixed parts, as 16 characters of lower-case base32.
#[must_use]
pub fn hash(parts: &[&str]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part.as_bytes());
    }
    base32::encode(base32::Alphabet::Rfc4648Lower { padding: false }, &sha.finalize()[..HASH_BYTES])
}

/// Name of the Pod of one attempt: `<run, 20>-<stage, 20>-a<attempt>-<hash, 16>`, at most 63 characters for attempts below 1,000.
///
/// The readable parts are for people; the hash over run UID, stage and attempt is what makes it this one.
///
/// ```
/// let name = trainyard_crds::names::pod("iris-abc", "3f0e", "train", 1);
/// assert!(name.starts_with("iris-abc-train-a1-"));
/// ```
#[must_use]
pub fn pod(run: &str, run_uid: &str, stage: &str, attempt: u32) -> String {
    let hash = hash(&[run_uid, stage, &attempt.to_string()]);
    format!("{}-{}-a{attempt}-{hash}", part(run, 20), part(stage, 20))
}

/// Name of the Pod of one rank of one attempt of a training job: `<job, 18>-<role, 12>-<index>-a<attempt>-<hash, 16>`, at most 63
/// characters for indexes below 1,000 and attempts below 1,000,000.
#[must_use]
pub fn rank_pod(job: &str, job_uid: &str, role: &str, index: u32, attempt: u32) -> String {
    let hash = hash(&[job_uid, role, &index.to_string(), &attempt.to_string()]);
    format!("{}-{}-{index}-a{attempt}-{hash}", part(job, 18), part(role, 12))
}

/// Name of the TrainingJob of one attempt of a stage: `<run, 20>-<stage, 20>-<hash, 16>`. It begins with a letter, as names of
/// Services must, since a job's Service has its name.
#[must_use]
pub fn job(run: &str, run_uid: &str, stage: &str, attempt: u32) -> String {
    let hash = hash(&["job", run_uid, stage, &attempt.to_string()]);
    let run = part(run, 20);
    let letter = if run.starts_with(|c: char| c.is_ascii_digit()) { "r" } else { "" };
    format!("{letter}{run}-{}-{hash}", part(stage, 20))
}

/// Attempts of the first TrainingJob of a stage, and of each that follows one that was deleted, are numbered from here on: no two
/// jobs of a stage share a number, below which their outputs and checkpoints lie.
#[must_use]
pub const fn attempts_before(stage_attempt: u32) -> u32 {
    stage_attempt.saturating_sub(1).saturating_mul(10_000)
}

/// Name of the group that the Pods of one attempt of a job are to a queue: `<job, 36>-a<attempt>-<hash, 16>`.
#[must_use]
pub fn group(job: &str, job_uid: &str, attempt: u32) -> String {
    format!("{}-a{attempt}-{}", part(job, 36), hash(&["group", job_uid, &attempt.to_string()]))
}

/// Name of the ControllerRevision that keeps a frozen pipeline: `<pipeline, 46>-<hash, 16>`.
#[must_use]
pub fn revision(pipeline: &str, canonical_spec: &str) -> String {
    format!("{}-{}", part(pipeline, 46), hash(&[pipeline, canonical_spec]))
}

/// Name of the run that a trigger starts for a key: `<pipeline, 46>-<10 characters of base32>`, the same whoever makes it and when.
/// `retries` is how often runs of the key were repeated after a failure.
#[must_use]
pub fn triggered_run(pipeline: &str, key: &str, retries: u32) -> String {
    let mut hash = hash(&["run", pipeline, key, &retries.to_string()]);
    hash.truncate(10);
    format!("{}-{hash}", part(pipeline, 46))
}

/// Name of the run that promotes again what a revision has published: the n-th time that the spec returned to it.
#[must_use]
pub fn rollback_run(pipeline: &str, key: &str, rollbacks: u32, retries: u32) -> String {
    let mut hash = hash(&["rollback", pipeline, key, &rollbacks.to_string(), &retries.to_string()]);
    hash.truncate(10);
    format!("{}-{hash}", part(pipeline, 46))
}

/// Name of the short Pod that looks at what a data trigger watches: `<pipeline, 20>-<trigger, 20>-look-<hash, 16>`. `since` is when it was
/// looked at before, so each look has its own and a repeated create meets itself.
#[must_use]
pub fn look_pod(pipeline: &str, pipeline_uid: &str, trigger: &str, uri: &str, since: &str) -> String {
    let hash = hash(&["look", pipeline_uid, trigger, uri, since]);
    format!("{}-{}-look-{hash}", part(pipeline, 20), part(trigger, 20))
}

/// Name of the short Pod that looks for artifacts which nothing refers to: `<pipeline, 36>-collect-<hash, 16>`. `since` is when that was
/// done before.
#[must_use]
pub fn collect_pod(pipeline: &str, pipeline_uid: &str, since: &str) -> String {
    format!("{}-collect-{}", part(pipeline, 36), hash(&["collect", pipeline_uid, since]))
}

/// The first `limit` characters of a name as a part of another: no dots, no dash at the end.
fn part(name: &str, limit: usize) -> String {
    let text: String = name.chars().take(limit).map(|c| if c == '.' { '-' } else { c }).collect();
    text.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pod_name_is_a_host_name(
            run in "[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?",
            stage in "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
            attempt in 1u32..1000,
        ) {
            let name = pod(&run, "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11", &stage, attempt);
            prop_assert!(name.len() <= 63, "{}", name);
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
        }
    }

    proptest! {
        #[test]
        fn names_of_jobs_and_ranks_are_host_names(
            run in "[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?",
            stage in "[a-z]([-a-z0-9]{0,61}[a-z0-9])?",
            index in 0u32..1000,
            attempt in 1u32..1_000_000,
        ) {
            let uid = "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11";
            let job = job(&run, uid, &stage, attempt);
            prop_assert!(job.starts_with(|c: char| c.is_ascii_lowercase()), "{}", job);
            for name in [&job, &rank_pod(&job, uid, &stage, index, attempt), &group(&job, uid, attempt)] {
                prop_assert!(name.len() <= 63, "{}", name);
                prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
                prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
            }
        }
    }

    #[test]
    fn job_role_index_and_attempt_each_make_another_rank() {
        let names = [
            rank_pod("j", "1", "worker", 0, 1),
            rank_pod("j", "2", "worker", 0, 1),
            rank_pod("j", "1", "chief", 0, 1),
            rank_pod("j", "1", "worker", 1, 1),
            rank_pod("j", "1", "worker", 0, 2),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn run_stage_and_attempt_each_make_another_name() {
        let names = [pod("r", "1", "a", 1), pod("r", "2", "a", 1), pod("r", "1", "b", 1), pod("r", "1", "a", 2)];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
