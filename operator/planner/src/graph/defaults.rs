//! What a stage leaves out, from the pipeline's defaults.

use trainyard_crds::v1alpha1::{Container, Defaults, Retry, Stage, StageKind};

/// A stage with the pipeline's defaults filled in.
pub(super) fn effective(stage: &Stage, defaults: Option<&Defaults>) -> Stage {
    let mut stage = stage.clone();
    let Some(defaults) = defaults else { return stage };
    match &mut stage.kind {
        StageKind::Container(program) => {
            container(program, defaults);
            stage.retry = merge(stage.retry.take(), defaults.retry.as_ref());
        }
        // It has its own way to begin again.
        StageKind::TrainingJob(training) => {
            training.roles.iter_mut().for_each(|role| container(&mut role.container, defaults));
        }
        StageKind::Publish(_) => stage.retry = merge(stage.retry.take(), defaults.retry.as_ref()),
        // They have nothing that takes time or is repeated.
        StageKind::Gate(_) | StageKind::Approval(_) => return stage,
    }
    if stage.timeout.is_none() {
        stage.timeout.clone_from(&defaults.timeout);
    }
    stage
}

/// A container's image and resources.
fn container(container: &mut Container, defaults: &Defaults) {
    if container.image.is_none() {
        container.image = defaults.container.as_ref().and_then(|container| container.image.clone());
    }
    if container.resources.is_none() {
        container.resources.clone_from(&defaults.resources);
    }
}

/// A stage's retry policy, each absent field from the defaults.
fn merge(own: Option<Retry>, defaults: Option<&Retry>) -> Option<Retry> {
    let Some(defaults) = defaults else { return own };
    let Some(own) = own else { return Some(defaults.clone()) };
    Some(Retry {
        limit: own.limit.or(defaults.limit),
        infra_limit: own.infra_limit.or(defaults.infra_limit),
        backoff: own.backoff.or_else(|| defaults.backoff.clone()),
        rules: if own.rules.is_empty() { defaults.rules.clone() } else { own.rules },
    })
}
