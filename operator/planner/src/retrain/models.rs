//! What a Pipeline's status says of its models. The store has the last word: promotions are numbered there.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::v1alpha1::{ModelReference, ModelStatus, ModelVersion};

use crate::judge::Champions;
use crate::publish::Published;

/// Versions of a model that are listed.
const LISTED: usize = 20;
/// Models that are listed.
const MODELS: usize = 16;

/// The run that has published or promoted a version.
#[derive(Clone, Copy, Debug)]
pub struct PublishedBy<'a> {
    /// Its name.
    pub run: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Key of the revision that it was started for; empty for a run that was created by hand.
    pub key: &'a str,
}

/// Takes a version into the list of models, however often it is told. Returns a sentence if an older version took a newer one's place.
pub fn register(
    models: &mut Vec<ModelStatus>,
    published: &Published,
    by: PublishedBy<'_>,
    now: Timestamp,
) -> Option<String> {
    let at = models.iter().position(|model| model.name == published.model).unwrap_or_else(|| {
        if models.len() >= MODELS
            && let Some(oldest) = (0..models.len()).min_by_key(|at| models[*at].promoted.as_ref().map(|time| time.0))
        {
            models.remove(oldest);
        }
        models.push(ModelStatus { name: published.model.clone(), ..ModelStatus::default() });
        models.len() - 1
    });
    let model = &mut models[at];
    if !model.versions.iter().any(|version| version.version == published.version) {
        model.versions.push(ModelVersion {
            version: published.version,
            digest: published.digest.clone(),
            uri: published.uri.clone(),
            bytes: published.bytes,
            run: by.run.to_owned(),
            run_uid: by.uid.to_owned(),
            key: published.key.clone().unwrap_or_else(|| by.key.to_owned()),
            metrics: published.metrics.clone(),
            created: Time(now),
        });
        model.versions.sort_by_key(|version| std::cmp::Reverse(version.version));
    }
    // One that is told late was overtaken in the store.
    if published.sequence <= model.sequence {
        shorten(model);
        return None;
    }
    let before = model.champion;
    model.sequence = published.sequence;
    model.previous = published.previous;
    model.champion = published.version;
    model.promoted = Some(Time(now));
    by.run.clone_into(&mut model.promoted_by);
    shorten(model);
    let created = model.versions.iter().find(|version| version.version == published.version)?.created.0;
    (published.version < before).then(|| {
        format!(
            "model {}: version {} of {} is champion again, in place of version {before}, by run {}",
            model.name,
            published.version,
            created.strftime("%Y-%m-%d %H:%M UTC"),
            by.run
        )
    })
}

/// The champion and the one before it stay on the list.
fn shorten(model: &mut ModelStatus) {
    while model.versions.len() > LISTED {
        let named = |version: u64| version == model.champion || Some(version) == model.previous;
        let Some(oldest) = model.versions.iter().rposition(|version| !named(version.version)) else { break };
        model.versions.remove(oldest);
    }
}

/// The champion of each model.
#[must_use]
pub fn champions(models: &[ModelStatus]) -> Champions {
    let champion = |model: &ModelStatus| {
        let champion = model.versions.iter().find(|version| version.version == model.champion)?;
        Some((model.name.clone(), champion.clone()))
    };
    models.iter().filter_map(champion).collect()
}

/// The versions that a revision has published and that are not champions now.
pub(super) fn dethroned(models: &[ModelStatus], key: &str) -> Vec<ModelReference> {
    let of = |model: &ModelStatus| {
        let newest = model.versions.iter().find(|version| version.key == key)?;
        let now = model.versions.iter().find(|version| version.version == model.champion);
        let same = now.is_some_and(|now| now.version == newest.version || now.key == key);
        (!same).then(|| ModelReference { model: model.name.clone(), version: newest.version })
    };
    models.iter().filter_map(of).collect()
}

/// Whether a champion is of this revision.
pub(super) fn reigns(models: &[ModelStatus], key: &str) -> bool {
    models
        .iter()
        .any(|model| model.versions.iter().any(|version| version.version == model.champion && version.key == key))
}
