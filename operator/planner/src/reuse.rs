//! What a rerun takes over from an earlier run.

use serde_json::{Map, Value};
use trainyard_crds::v1alpha1::{CachedFrom, StagePhase, StageStatus};

use crate::graph::Graph;

/// The rows that a new run takes over from an earlier one: of stages that succeeded there, are defined the same, use the same
/// parameters, and need only stages that are taken over too. One entry a stage of the new graph.
///
/// Stages of `finally` always run again, and approvals are always asked for again: who approved that run did not approve this one.
#[must_use]
pub fn reuse(
    graph: &Graph,
    params: &Map<String, Value>,
    earlier: &Graph,
    earlier_params: &Map<String, Value>,
    rows: &[StageStatus],
    from: &CachedFrom,
) -> Vec<Option<StageStatus>> {
    let mut taken: Vec<Option<StageStatus>> = Vec::with_capacity(graph.nodes().len());
    let same_params = params == earlier_params;
    for (index, node) in graph.nodes().iter().enumerate() {
        let row = earlier
            .position(node.name())
            .and_then(|position| Some((rows.get(position)?, earlier.nodes().get(position)?)));
        let keep = row.filter(|(row, old)| {
            index < graph.main()
                && !node.is_approval()
                && row.phase == StagePhase::Succeeded
                && old.hash() == node.hash()
                // All parameters reach the program by its environment, so any of them may matter.
                && same_params
                && node.needs.iter().all(|need| taken.get(need.node).is_some_and(Option::is_some))
        });
        taken.push(keep.map(|(row, _)| StageStatus {
            cached_from: Some(row.cached_from.clone().unwrap_or_else(|| from.clone())),
            failures: None,
            failed_attempts: Vec::new(),
            ..row.clone()
        }));
    }
    taken
}
