//! A stage that trains as the spec of its TrainingJob: references replaced, inputs resolved to commit records.

use step_protocol::{InputSource, InputSpec, Segment, Text};
use trainyard_crds::v1alpha1::{
    ArtifactReference, Code, Container, JobInput, StageKind, StageStatus, Training, TrainingJobSpec,
};

use crate::graph::{Graph, Program};
use crate::schedule::Run;
use crate::step::{Maker, StepProblem};
use crate::template::{Template, escaped};

/// The spec of the TrainingJob of a stage that trains.
///
/// `rows` are the stages' rows with every change of the plan that launches it. `default_timeout` is the installation's, in seconds,
/// for a stage and a pipeline that say nothing.
///
/// # Errors
/// See [`StepProblem`].
pub fn job_spec(
    graph: &Graph,
    run: &Run<'_>,
    rows: &[StageStatus],
    node: usize,
    service_account_name: Option<&str>,
    default_timeout: Option<u64>,
) -> Result<TrainingJobSpec, StepProblem> {
    let current = graph.nodes().get(node).ok_or(StepProblem::Unknown(node))?;
    let stage = current.stage();
    let StageKind::TrainingJob(training) = &stage.kind else { return Err(StepProblem::Unknown(node)) };
    let maker = Maker { graph, run, rows, node: current };
    let mut training = Training::clone(training);
    for (role, program) in training.roles.iter_mut().zip(&current.programs) {
        replace(&mut role.container, program, &maker)?;
    }
    let seconds = |seconds: u64| format!("{seconds}s");
    Ok(TrainingJobSpec {
        training,
        params: run.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        store: Some(graph.store().clone()),
        code: graph.code().map(|name| Code { config_map_name: name.to_owned() }),
        inputs: maker.inputs()?.into_iter().map(input).collect(),
        outputs: stage.outputs.clone(),
        results: stage.results.clone(),
        metrics: stage.metrics.clone(),
        timeout: stage.timeout.clone().or_else(|| default_timeout.map(seconds)),
        grace_period: stage.grace_period.clone(),
        // A run that is suspended or stopped starts nothing.
        suspend: None,
        service_account_name: service_account_name.map(str::to_owned),
        ttl: None,
    })
}

/// Puts a role's program with its references replaced.
fn replace(container: &mut Container, program: &Program, maker: &Maker<'_>) -> Result<(), StepProblem> {
    let mut templates = program.command.iter();
    for texts in [&mut container.command, &mut container.args] {
        for (text, template) in texts.iter_mut().flatten().zip(&mut templates) {
            *text = literal(template, maker)?;
        }
    }
    let valued = container.env.iter_mut().filter_map(|variable| variable.value.as_mut());
    for (value, (_, template)) in valued.zip(&program.env) {
        *value = literal(template, maker)?;
    }
    Ok(())
}

/// A text without references, as a job takes it.
fn literal(template: &Template, maker: &Maker<'_>) -> Result<String, StepProblem> {
    match maker.text(template)? {
        Text::Known(text) => Ok(escaped(&text)),
        Text::Segments(segments) => {
            let large = segments.into_iter().find_map(|segment| match segment {
                Segment::Result { stage, name, .. } => Some((stage, name)),
                Segment::Literal(_) => None,
            });
            let (stage, result) = large.unwrap_or_default();
            Err(StepProblem::ResultTooLarge { stage, result })
        }
    }
}

fn input(input: InputSpec) -> JobInput {
    let InputSpec { name, source, optional } = input;
    let (uri, artifact, absent) = match source {
        InputSource::Uri(uri) => (Some(uri), None, false),
        InputSource::Stage { commit, output, digest } => {
            (None, Some(ArtifactReference { commit, output, digest }), false)
        }
        InputSource::Absent => (None, None, true),
    };
    JobInput { name, uri, artifact, optional: (optional || absent).then_some(true) }
}
