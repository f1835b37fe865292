//! Pieces of schema that the derive cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A stage's name, as a pattern.
pub(super) const STAGE_NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// The name of a parameter, input, output or result, as a pattern.
pub(super) const VALUE_NAME: &str = "^[a-zA-Z]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$";
/// An output of a stage, as STAGE.OUTPUT, as a pattern.
pub(super) const STAGE_OUTPUT: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?[.][a-zA-Z]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$";
/// A duration, as a pattern; at most nine digits a unit.
pub(super) const DURATION: &str = "^([0-9]{1,9}[smhd])+$";

/// Any JSON value: its type is what the declaration beside it says, which a schema cannot follow.
pub(super) fn any_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// A number, or the parameter that has it: no schema can say that, so the operator does.
pub(super) fn bound(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// A map from names to any JSON value.
pub(super) fn any_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "x-kubernetes-preserve-unknown-fields": true },
        "maxProperties": 256
    })
}

/// A map of small strings: labels, annotations, selectors.
pub(super) fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "string", "maxLength": 4096 },
        "maxProperties": 64
    })
}

/// A map from resource names to quantities.
pub(super) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "pattern": "^(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$"
        },
        "maxProperties": 16
    })
}

/// A quantity.
pub(super) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "pattern": "^([0-9]+(\\.[0-9]*)?)(([KMGTPE]i)|[kMGTPE])?$"
    })
}

/// A Kubernetes shape that the API server checks when the Pod is created (affinity and tolerations alone would make this
/// definition too large for `kubectl apply`).
pub(super) fn kubernetes_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// `status` with the default that tells kstatus that nobody has looked at the object yet.
pub(super) fn unobserved() -> i64 {
    -1
}

/// Decisions on approvals, by stage.
pub(super) fn approvals(generator: &mut SchemaGenerator) -> Schema {
    let decision = generator.subschema_for::<super::ApprovalDecision>();
    json_schema!({ "type": "object", "additionalProperties": decision, "maxProperties": 220 })
}

/// Counts that are zero are left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
pub(super) fn is_zero(count: &u32) -> bool {
    *count == 0
}
