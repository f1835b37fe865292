//! What lies in the registry of a model. Others wrote it, or may have: it is read with bounds and believed when it fits its key.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use step_protocol::{CommittedOutput, Identity, ModelRun, Outcome, Promotion, PublishSpec, StepSpec, paths};

use crate::failure::Failure;
use crate::store::{Store, StoreError};

/// The highest number that a version or a promotion may have: results are 64-bit signed integers.
const HIGHEST: u64 = i64::MAX.cast_unsigned();
/// How much older than the run one of its records may seem. S3 refuses requests whose clock is off by more than 15 minutes, and no
/// volume's server should be off by more: a day is generous.
const CLOCKS: Duration = Duration::from_secs(24 * 60 * 60);
/// Records that are read at the same time.
const READS: usize = 4;

/// The records of a model, as one stage sees them.
pub(super) struct Registry<'a> {
    pub(super) store: &'a Store,
    pub(super) spec: &'a PublishSpec,
    pub(super) identity: &'a Identity,
    /// No record of this run was written before.
    since: SystemTime,
}

/// The numbers of the records that there are, and when each was written.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) versions: BTreeMap<u64, SystemTime>,
    pub(super) promotions: BTreeMap<u64, SystemTime>,
}

/// As much of a [`step_protocol::ModelRecord`] as others need. Of what is left out a hostile one could have much.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    protocol: u32,
    model: String,
    version: u64,
    pub(super) run: ModelRun,
    pub(super) output: CommittedOutput,
    #[serde(default)]
    pub(super) metrics: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) lineage: Lineage,
}

/// As much of a version's lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Lineage {
    /// Key of the revision that it was published for.
    #[serde(default)]
    pub(super) key: Option<String>,
}

/// Why there is no record to go by.
#[derive(Debug)]
pub(super) enum Unread {
    /// Something else lies at its key; a sentence that names it.
    Garbled(String),
    /// A newer release wrote it, or the store failed.
    Failed(Failure),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } => Self::Garbled(error.to_string()),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Garbled(message) => {
                Self::new(Outcome::ArtifactCorrupt, format!("{message}; put back what was there, or delete it"))
            }
            Unread::Failed(failure) => failure,
        }
    }
}

/// A record that says of itself which one it is.
pub(super) trait Record: DeserializeOwned {
    fn protocol(&self) -> u32;
    /// Whether it is the one of that number.
    fn is(&self, model: &str, number: u64) -> bool;
    fn run(&self) -> &ModelRun;
    fn key(prefix: &str, number: u64) -> String;
}

impl Record for Version {
    fn protocol(&self) -> u32 {
        self.protocol
    }

    fn is(&self, model: &str, number: u64) -> bool {
        self.model == model && self.version == number
    }

    fn run(&self) -> &ModelRun {
        &self.run
    }

    fn key(prefix: &str, number: u64) -> String {
        paths::version_key(prefix, number)
    }
}

impl Record for Promotion {
    fn protocol(&self) -> u32 {
        self.protocol
    }

    fn is(&self, model: &str, number: u64) -> bool {
        let versions = [Some(self.version), self.previous];
        self.model == model && self.sequence == number && versions.into_iter().flatten().all(is_number)
    }

    fn run(&self) -> &ModelRun {
        &self.run
    }

    fn key(prefix: &str, number: u64) -> String {
        paths::promotion_key(prefix, number)
    }
}

impl<'a> Registry<'a> {
    pub(super) fn new(step: &'a StepSpec, spec: &'a PublishSpec, store: &'a Store) -> Result<Self, Failure> {
        let started = humantime::parse_rfc3339(&spec.run_started).map_err(|error| {
            Failure::config(format!("the start of the run {:?} is no time in RFC 3339: {error}", spec.run_started))
        })?;
        let since = started.checked_sub(CLOCKS).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Self { store, spec, identity: &step.identity, since })
    }

    /// Who we are in records.
    pub(super) fn run(&self) -> ModelRun {
        let Identity { run, run_uid, stage, .. } = self.identity;
        ModelRun { name: run.clone(), uid: run_uid.clone(), stage: stage.clone() }
    }

    /// Whether this stage of this run wrote a record: another attempt of it, or this one.
    pub(super) fn is_ours(&self, run: &ModelRun) -> bool {
        run.uid == self.identity.run_uid && run.stage == self.identity.stage
    }

    /// How a record is called in messages.
    pub(super) fn name<R: Record>(&self, number: u64) -> String {
        self.store.name(&R::key(&self.spec.prefix, number))
    }

    /// Where the files of an output lie, for people and model servers.
    pub(super) fn uri(&self, output: &CommittedOutput) -> String {
        format!("{}/", self.store.name(&output.prefix))
    }

    /// Every record of the model.
    pub(super) async fn list(&self) -> Result<Listing, Failure> {
        let prefix = format!("{}/", self.spec.prefix);
        let listing = self.store.scan(&prefix, Listing::default, |listing, key, meta| {
            let modified = SystemTime::from(meta.last_modified);
            if let Some(version) = version_of(&key) {
                listing.versions.insert(version, modified);
            } else if let Some(sequence) = key.strip_prefix(paths::PROMOTIONS).and_then(sequence_of) {
                listing.promotions.insert(sequence, modified);
            }
        });
        Ok(listing.await?)
    }

    /// The number of the newest promotion; `None` if there is none.
    pub(super) async fn newest_promotion(&self) -> Result<Option<u64>, Failure> {
        let prefix = format!("{}/{}/", self.spec.prefix, paths::PROMOTIONS);
        let highest = self.store.scan(
            &prefix,
            || None,
            |highest, key, _| *highest = (*highest).max(sequence_of(&format!("/{key}"))),
        );
        Ok(highest.await?)
    }

    /// The record of that number; `None` if there is none.
    pub(super) async fn read<R: Record>(&self, number: u64) -> Result<Option<R>, Unread> {
        let Some(bytes) = self.store.read_bounded(&R::key(&self.spec.prefix, number)).await? else { return Ok(None) };
        self.parse(number, &bytes).map(Some)
    }

    /// The record of that number from its bytes.
    pub(super) fn parse<R: Record>(&self, number: u64, bytes: &[u8]) -> Result<R, Unread> {
        let name = self.name::<R>(number);
        let record: R = serde_json::from_slice(bytes)
            .map_err(|error| Unread::Garbled(format!("the record {name} cannot be read: {error}")))?;
        if record.protocol() > step_protocol::VERSION {
            return Err(Unread::Failed(Failure::config(format!(
                "the record {name} has protocol version {} and this runner speaks {}: a newer release wrote it",
                record.protocol(),
                step_protocol::VERSION
            ))));
        }
        if !record.is(&self.spec.model, number) {
            return Err(Unread::Garbled(format!("the record {name} is not that of its key: something else wrote it")));
        }
        Ok(record)
    }

    /// The first record, from the newest, that is ours and `wanted`. Those that were written long before the run are not read, and
    /// those that cannot be read are not ours.
    pub(super) async fn find_ours<R: Record>(
        &self,
        records: &BTreeMap<u64, SystemTime>,
        wanted: impl Fn(&R) -> bool,
    ) -> Result<Option<(u64, R)>, Failure> {
        use futures_util::{StreamExt as _, stream};
        let recent = records.iter().rev().filter(|(_, modified)| **modified >= self.since).map(|(number, _)| *number);
        let mut reading =
            stream::iter(recent).map(|number| async move { (number, self.read::<R>(number).await) }).buffered(READS);
        let (mut garbled, mut first) = (0_u64, String::new());
        let mut ours = None;
        while let Some((number, read)) = reading.next().await {
            match read {
                Ok(Some(record)) if self.is_ours(record.run()) && wanted(&record) => {
                    ours = Some((number, record));
                    break;
                }
                Ok(_) => {}
                Err(Unread::Garbled(why)) => {
                    garbled += 1;
                    if garbled == 1 {
                        first = why;
                    }
                }
                Err(Unread::Failed(failure)) => return Err(failure),
            }
        }
        if garbled > 0 {
            crate::failure::say!("{garbled} records of the model {} are passed over: {first}", self.spec.model);
        }
        Ok(ours)
    }

    /// The number after all that there are.
    pub(super) fn after<R: Record>(&self, highest: Option<u64>) -> Result<u64, Failure> {
        let Some(highest) = highest else { return Ok(1) };
        highest.checked_add(1).filter(|next| is_number(*next)).ok_or_else(|| {
            let message =
                format!("no number is left after {}: something else wrote it; delete it", self.name::<R>(highest));
            Failure::new(Outcome::ArtifactCorrupt, message)
        })
    }

    /// Others were quicker, again and again.
    pub(super) fn too_many(&self) -> Failure {
        let message = format!(
            "{TRIES} records of the model {} were written by others while this one was; publish fewer at the same time",
            self.spec.model,
            TRIES = super::TRIES
        );
        Failure::new(Outcome::StoreUnavailable, message)
    }
}

/// Whether a version or a promotion can have this number.
pub(super) fn is_number(number: u64) -> bool {
    (1..=HIGHEST).contains(&number)
}

/// The number of the version whose record has this key below the model's prefix.
fn version_of(key: &str) -> Option<u64> {
    let (number, file) = key.split_once('/')?;
    let version = number.parse().ok().filter(|version| is_number(*version))?;
    // Only as it is written: `+1` and `01` are no versions.
    (file == paths::MODEL && number == format!("{version}")).then_some(version)
}

/// The number of the promotion whose record has this name, with the slash before it.
fn sequence_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix('/')?.strip_suffix(".json")?;
    let sequence = number.parse().ok().filter(|sequence| is_number(*sequence))?;
    (number == format!("{sequence:08}")).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_leads_back_to_its_number(number in 1..=HIGHEST) {
            let key = paths::version_key("m", number);
            prop_assert_eq!(version_of(key.strip_prefix("m/").unwrap()), Some(number));
            let key = paths::promotion_key("m", number);
            prop_assert_eq!(sequence_of(key.strip_prefix("m/promotions").unwrap()), Some(number));
        }

        #[test]
        fn no_other_key_has_a_number(key in "[+-]?[0-9]{0,20}/?(model)?.json|\\PC{0,30}") {
            if let Some(number) = version_of(&key) {
                prop_assert_eq!(paths::version_key("m", number), format!("m/{key}"));
            }
            if let Some(number) = sequence_of(&format!("/{key}")) {
                prop_assert_eq!(paths::promotion_key("m", number), format!("m/promotions/{key}"));
            }
        }
    }

    #[test]
    fn strangers_have_no_number() {
        for key in [
            "0/model.json",
            "01/model.json",
            "+1/model.json",
            "1/x",
            "1",
            "9223372036854775808/model.json",
            "a/model.json",
        ] {
            assert_eq!(version_of(key), None, "{key}");
        }
        for name in
            ["/1.json", "/00000000.json", "/000000001.json", "/00000001.json/x", "00000001.json", "/0000000x.json"]
        {
            assert_eq!(sequence_of(name), None, "{name}");
        }
        assert_eq!(version_of("9223372036854775807/model.json"), Some(HIGHEST));
    }
}
