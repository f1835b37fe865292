//! Parameters: typed values that a run may set.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// A parameter of the pipeline. A run sets it in `spec.params`; without a default it must.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.minimum) || has(self.maximum)) || (has(self.type) && self.type in ['integer', 'number'])")
        .message("minimum and maximum are for parameters of type integer or number"),
    validation = Rule::new("!has(self.pattern) || !has(self.type) || self.type == 'string'").message("pattern is for parameters of type string"),
    validation = Rule::new("!has(self.minimum) || !has(self.maximum) || self.minimum <= self.maximum")
        .message("minimum must not be above maximum")
)]
pub struct Param {
    /// Name, used as $(params.NAME), as TRAINYARD_PARAM_NAME and in /trainyard/params.json.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::VALUE_NAME))]
    pub name: String,
    /// Type of the value: string (the default), integer, number, boolean, list or object.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ValueType>,
    /// Value when a run sets none. A parameter without a default must be set by the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_value")]
    pub default: Option<Value>,
    /// The values that are allowed. Absent means any.
    #[serde(rename = "enum", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "enumeration")]
    pub allowed: Vec<Value>,
    /// Least value of an integer or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// Greatest value of an integer or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// Regular expression that the whole of a string must match, such as [a-z]+.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub pattern: Option<String>,
    /// What the parameter is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}

fn enumeration(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": { "x-kubernetes-preserve-unknown-fields": true },
        "maxItems": 256,
        "x-kubernetes-list-type": "atomic"
    })
}

/// Type of the value: string (the default), integer, number, boolean, list or object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// Text.
    #[default]
    String,
    /// A 64-bit signed integer.
    Integer,
    /// A finite 64-bit floating-point number; an integer will do.
    Number,
    /// true or false.
    Boolean,
    /// A JSON array.
    List,
    /// A JSON object.
    Object,
}

impl ValueType {
    /// The word in YAML.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::List => "list",
            Self::Object => "object",
        }
    }
}
