//! What one attempt of a stage is to do: written by the operator, read by the runner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::paths;
use crate::rank::{CheckpointSpec, RankSpec};
use crate::registry::{LedgerSpec, PublishSpec};

/// One attempt of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepSpec {
    /// [`crate::VERSION`] of the operator.
    pub version: u32,
    /// Whose attempt this is.
    pub identity: Identity,
    /// Directory of the contract's files; [`paths::ROOT`] in a Pod.
    pub root: String,
    /// Program and arguments. With a `script` these are the script's arguments.
    pub command: Vec<Text>,
    /// A program as text with a shebang line: written to `<root>/script`, made executable and started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Working directory of the child; absent = `<root>/code` if that exists, else the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Variables for the child, after those of the container and of the contract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// All parameters of the run, typed.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Where artifacts live.
    pub store: StoreSpec,
    /// Below the store: the stage's prefix, see [`paths::stage_prefix`].
    pub prefix: String,
    /// What is fetched before the child starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputSpec>,
    /// What the child must have written when it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputSpec>,
    /// Small values that the child must have written when it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultSpec>,
    /// Metrics that `status` may rely on: these have room in the report before all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
    /// Seconds that the whole attempt may take, counted from the runner's start; absent = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Seconds between TERM and KILL for the child's process group.
    pub grace_seconds: u64,
    /// Where success is reported early; absent = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportSpec>,
    /// Which rank of a training this is; absent = a stage of one Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<RankSpec>,
    /// Where the program's state is kept; absent = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSpec>,
    /// What is published instead of running a program: then there is no command. Absent = a program is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishSpec>,
    /// The revision that the run was started for, which no other run may have taken; absent = nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerSpec>,
}

/// Whose attempt this is. All of it is visible to the child as `TRAINYARD_RUN`, `_PIPELINE`, `_STAGE`, `_ATTEMPT`, `_NAMESPACE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Namespace of the run.
    pub namespace: String,
    /// Name of the Pipeline; the run's own name for an inline one.
    pub pipeline: String,
    /// Name of the PipelineRun.
    pub run: String,
    /// UID of the PipelineRun.
    pub run_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// A text that is known now, or one that needs results which only the producer's commit record has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Known.
    Known(String),
    /// Joined by the runner, in order.
    Segments(Vec<Segment>),
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Known(text.to_owned())
    }
}

/// A part of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Segment {
    /// Literal text, never expanded again.
    Literal(String),
    /// A result of another stage, read from its commit record: a string as it is, anything else as JSON.
    #[serde(rename_all = "camelCase")]
    Result {
        /// Key of the producer's commit record below the store.
        commit: String,
        /// Name of the stage, for messages.
        stage: String,
        /// Name of the result.
        name: String,
    },
}

/// One variable of the child's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Text,
}

/// Where artifacts live, and how to reach it. Credentials come by environment, see [`paths::ENV_STORE_PREFIX`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreSpec {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory` (a mounted volume).
    pub uri: String,
    /// Only for `s3://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
}

/// How to reach an S3 service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Spec {
    /// `http://` or `https://` URL; absent = AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region; absent = the SDK's environment variables, else `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `bucket.host` instead of `host/bucket`.
    #[serde(default)]
    pub virtual_hosted_style: bool,
}

/// One input: `<root>/in/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: InputSource,
    /// Whether its absence in the store is fine: then the path does not exist and the variable is not set.
    #[serde(default)]
    pub optional: bool,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InputSource {
    /// An output of a stage, found by the stage's commit record.
    #[serde(rename_all = "camelCase")]
    Stage {
        /// Key of the commit record below the store.
        commit: String,
        /// Name of the output in it.
        output: String,
        /// The digest that the operator knows, which must match; absent when it knows none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// An object (`s3://bucket/key`), or everything below a prefix that ends with `/`.
    Uri(String),
    /// Nothing: the producer was skipped or failed, and the input is optional.
    Absent,
}

/// One output: `<root>/out/<name>`, a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// Its name.
    pub name: String,
    /// Its type, free text such as `Dataset`, `Model`, `Report`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// One result: `<root>/results/<name>`, at most 64 KiB of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultSpec {
    /// Its name.
    pub name: String,
    /// How its text is read.
    #[serde(rename = "type")]
    pub kind: ValueType,
}

/// The types of parameters and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// The text itself, without one trailing newline.
    String,
    /// A 64-bit signed integer.
    Integer,
    /// A finite 64-bit floating-point number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A JSON array.
    List,
    /// A JSON object.
    Object,
}

/// Where success is reported early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSpec {
    /// `http://host:port/path` of the operator. The key comes by [`paths::ENV_REPORT_KEY`].
    pub url: String,
}

/// A spec that does not fit, or cannot be read.
#[derive(Debug)]
pub enum SpecError {
    /// No [`paths::ENV_SPEC`] in the environment.
    Missing,
    /// Not the JSON of a [`StepSpec`].
    Garbled(serde_json::Error),
    /// Written by an operator of another protocol version.
    Version(u32),
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => {
                write!(f, "the variable {} is not set: the runner is started by the operator", paths::ENV_SPEC)
            }
            Self::Garbled(error) => write!(f, "the variable {} is not a step: {error}", paths::ENV_SPEC),
            Self::Version(version) => write!(
                f,
                "the step has protocol version {version} and this runner speaks {}: install operator and runner of one release",
                crate::VERSION
            ),
        }
    }
}

impl std::error::Error for SpecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Garbled(error) => Some(error),
            Self::Missing | Self::Version(_) => None,
        }
    }
}

/// A JSON text as container variables of this name, in order. Every `$` is written as a JSON escape, since the kubelet would expand
/// `$(NAME)` and fold `$$` in a variable's value.
pub(crate) fn chunks(json: &str, name: &str) -> Vec<(String, String)> {
    let json = json.replace('$', "\\u0024");
    let mut chunks = Vec::new();
    let mut rest = json.as_str();
    while !rest.is_empty() {
        let mut end = rest.len().min(paths::ENV_SPEC_CHUNK);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (chunk, tail) = rest.split_at(end);
        let name = match chunks.len() {
            0 => name.to_owned(),
            n => format!("{name}_{n}"),
        };
        chunks.push((name, chunk.to_owned()));
        rest = tail;
    }
    chunks
}

impl StepSpec {
    /// The container variables that carry this spec, in order.
    ///
    /// # Errors
    /// Only if a number in the parameters is not JSON.
    pub fn to_env(&self) -> Result<Vec<(String, String)>, serde_json::Error> {
        Ok(chunks(&serde_json::to_string(self)?, paths::ENV_SPEC))
    }

    /// Reads the spec back from the container's variables.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Self, SpecError> {
        let mut json = env.get(paths::ENV_SPEC).ok_or(SpecError::Missing)?.clone();
        let mut n = 1;
        while let Some(chunk) = env.get(&format!("{}_{n}", paths::ENV_SPEC)) {
            json.push_str(chunk);
            n += 1;
        }
        let spec: Self = serde_json::from_str(&json).map_err(SpecError::Garbled)?;
        if spec.version != crate::VERSION {
            return Err(SpecError::Version(spec.version));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(text: &str) -> StepSpec {
        StepSpec {
            version: crate::VERSION,
            identity: Identity {
                namespace: "default".into(),
                pipeline: "iris".into(),
                run: "iris-1".into(),
                run_uid: "u".into(),
                stage: "train".into(),
                attempt: 1,
            },
            root: paths::ROOT.into(),
            command: vec![text.into(), Text::Segments(vec![Segment::Literal(text.into())])],
            script: None,
            working_dir: None,
            env: vec![EnvVar { name: "A".into(), value: text.into() }],
            params: Map::from_iter([("p".to_owned(), Value::String(text.to_owned()))]),
            store: StoreSpec { uri: "file:///store".into(), s3: None },
            prefix: "default/iris/iris-1.u/train".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            results: Vec::new(),
            metrics: Vec::new(),
            timeout_seconds: None,
            grace_seconds: 30,
            report: None,
            rank: None,
            checkpoint: None,
            publish: None,
            ledger: None,
        }
    }

    proptest! {
        #[test]
        fn any_text_arrives_byte_for_byte(text in "\\PC*|[$(){}\"'\\\\\u{0}-\u{1f}]{0,40}") {
            let env = spec(&text).to_env().unwrap();
            prop_assert!(env.iter().all(|(_, value)| !value.contains('$')));
            prop_assert_eq!(StepSpec::from_env(&env.into_iter().collect()).unwrap(), spec(&text));
        }
    }

    #[test]
    fn a_large_spec_is_cut_into_variables_that_linux_takes() {
        let large = spec(&"ä$".repeat(100_000));
        let env = large.to_env().unwrap();
        assert!(env.len() > 2);
        assert!(env.iter().all(|(name, value)| name.len() + value.len() + 2 <= 128 * 1024));
        assert_eq!(StepSpec::from_env(&env.into_iter().collect()).unwrap(), large);
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut other = spec("x");
        other.version = 99;
        let env = other.to_env().unwrap().into_iter().collect();
        assert!(StepSpec::from_env(&env).unwrap_err().to_string().contains("protocol version 99"));
    }
}
