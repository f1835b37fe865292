//! One rank of a training: what the runner needs to know of the others, and where checkpoints go.

use serde::{Deserialize, Serialize};

/// The Pod is one rank of an attempt of a training. All ranks of an attempt have the same `hosts`, `roles` and `rendezvousId`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RankSpec {
    /// Which rendezvous the program uses.
    pub framework: Framework,
    /// Name of the role that this rank has.
    pub role: String,
    /// Its place in its role, from 0.
    pub index: u32,
    /// Its place among all ranks, from 0.
    pub rank: u32,
    /// How many ranks there are.
    pub world_size: u32,
    /// Every role, in the order of the ranks: those of the first role come first.
    pub roles: Vec<RoleSpec>,
    /// A name or address for each rank, in the order of the ranks.
    pub hosts: Vec<String>,
    /// Where rank 0's program listens; for some frameworks every rank's.
    pub port: u16,
    /// Where the runners themselves listen.
    pub gate_port: u16,
    /// How many processes the program starts in each Pod of this role.
    pub processes_per_replica: u32,
    /// Counts every start of the whole group, also after a resume. The identity's attempt is the same number.
    pub execution: u32,
    /// How long a runner waits for the others, in seconds from its own start.
    pub start_timeout_seconds: u64,
    /// How long the program may show no sign of progress; absent = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout_seconds: Option<u64>,
    /// Between how many ranks an attempt may have; absent = always `worldSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<ElasticSpec>,
    /// `<job UID>-<attempt>`: ranks of another attempt, whose Pods may still resolve, are no peers.
    pub rendezvous_id: String,
    /// Whether the ranks do not know each other: no rank waits for another, and each one's own success counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scatter: bool,
}

/// A role and how many ranks have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// How many ranks of this attempt have it.
    pub replicas: u32,
    /// How many processes the program starts in each of their Pods.
    pub processes_per_replica: u32,
}

/// Bounds of the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElasticSpec {
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
}

/// Which rendezvous environment a rank gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Framework {
    /// `torch.distributed`, by plain processes or by `torchrun`.
    Torch,
    /// `tf.distribute`, by `TF_CONFIG`.
    TensorFlow,
    /// `jax.distributed`.
    JAX,
    /// XGBoost's collective, with the tracker in rank 0.
    XGBoost,
    /// LightGBM's socket network.
    LightGBM,
    /// `mpirun` or `mpiexec` in rank 0, of Open MPI or MPICH.
    MPI,
    /// The variables of every rank and nothing else.
    None,
}

impl Framework {
    /// Every framework.
    pub const ALL: [Self; 7] =
        [Self::Torch, Self::TensorFlow, Self::JAX, Self::XGBoost, Self::LightGBM, Self::MPI, Self::None];

    /// Whether rank 0's program listens on [`RankSpec::port`] before the others can do anything.
    #[must_use]
    pub const fn has_listener(self) -> bool {
        match self {
            Self::Torch | Self::JAX | Self::XGBoost => true,
            Self::TensorFlow | Self::LightGBM | Self::MPI | Self::None => false,
        }
    }
}

/// The program keeps its state below `<root>/checkpoint`, and the next execution finds it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointSpec {
    /// Seconds between two looks at the directory; what has not changed is not sent again.
    pub interval_seconds: u64,
    /// How many complete checkpoints stay in the store, at least 1.
    pub keep: u32,
    /// Below the store: where they lie, see [`crate::paths::checkpoint_prefix`].
    pub prefix: String,
    /// Whether this rank's directory is the one that is sent. The others only get what was sent before.
    pub upload: bool,
}

/// What rank 0's runner posts to `/v1/progress/<namespace>/<job>/<job UID>/<execution>` while the program runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    /// [`crate::VERSION`] of the runner.
    pub version: u32,
    /// From 0 to 1, as the program says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// When it will be done, in the program's own words, at most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
    /// The last value of each declared metric, as in a commit record.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub metrics: std::collections::BTreeMap<String, serde_json::Value>,
    /// The newest complete checkpoint of this execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointName>,
    /// Why the newest checkpoint could not be kept; absent when it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_error: Option<String>,
}

/// Which checkpoint: later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointName {
    /// The execution that wrote it.
    pub execution: u32,
    /// Its number in that execution, from 1.
    pub sequence: u32,
}

impl std::fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:06}-{:06}", self.execution, self.sequence)
    }
}

impl std::str::FromStr for CheckpointName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |digits: &str| {
            let plain = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
            if plain { digits.parse().map_err(|_| ()) } else { Err(()) }
        };
        let (execution, sequence) = text.split_once('-').ok_or(())?;
        let name = Self { execution: number(execution)?, sequence: number(sequence)? };
        // One spelling each, so that equal names are the same objects.
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints_lead_back_and_sort_as_texts_do() {
        let name = CheckpointName { execution: 2, sequence: 13 };
        assert_eq!(name.to_string(), "000002-000013");
        assert_eq!("000002-000013".parse(), Ok(name));
        assert_eq!("1000000-000001".parse(), Ok(CheckpointName { execution: 1_000_000, sequence: 1 }));
        for text in
            ["", "2-13", "000002", "000002-", "000002-00001x", "+00002-000013", "0000002-000013", "000002-000013/"]
        {
            assert_eq!(text.parse::<CheckpointName>(), Err(()), "{text}");
        }
        assert!(CheckpointName { execution: 3, sequence: 1 } > name);
    }

    #[test]
    fn frameworks_are_spelled_as_in_the_api() {
        let spelled: Vec<_> = Framework::ALL.iter().map(|one| serde_json::to_string(one).unwrap()).collect();
        let expected =
            ["Torch", "TensorFlow", "JAX", "XGBoost", "LightGBM", "MPI", "None"].map(|one| format!("{one:?}"));
        assert_eq!(spelled, expected);
    }
}
