//! Requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trainyard_crds::v1alpha1::Resources;

type Quantities = BTreeMap<String, Quantity>;

/// The stage container's, as the user says.
pub(super) fn requirements(resources: Option<&Resources>) -> Option<ResourceRequirements> {
    let Resources { requests, limits } = resources?;
    let some = |quantities: &Quantities| (!quantities.is_empty()).then(|| quantities.clone());
    let requirements =
        ResourceRequirements { requests: some(requests), limits: some(limits), ..ResourceRequirements::default() };
    (requirements != ResourceRequirements::default()).then_some(requirements)
}

/// The init container's: the stage's own without devices.
///
/// A Pod needs the larger of its init container and its containers, so this costs nothing; it keeps the quality-of-service class
/// `Guaranteed` and satisfies every LimitRange and quota that the stage satisfies. Devices stay with the stage.
pub(super) fn of_init(stage: Option<&ResourceRequirements>) -> Option<ResourceRequirements> {
    let stage = stage?;
    let plain = |quantities: &Option<Quantities>| {
        let plain: Quantities = quantities
            .iter()
            .flatten()
            .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"))
            .map(|(name, quantity)| (name.clone(), quantity.clone()))
            .collect();
        (!plain.is_empty()).then_some(plain)
    };
    Some(ResourceRequirements {
        requests: plain(&stage.requests),
        limits: plain(&stage.limits),
        ..ResourceRequirements::default()
    })
}
