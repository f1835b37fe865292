//! What must have ended before a stage starts, and how.

use trainyard_crds::v1alpha1::{Branch, StagePhase};

/// Something that must have ended before a stage starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Index of the stage.
    pub(crate) node: usize,
    /// The ways in which it may have ended.
    pub(crate) on: Branches,
}

/// A set of [`Branch`]es.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branches(pub(super) u8);

impl Branches {
    pub(crate) const SUCCEEDED: Self = Self(1);
    pub(crate) const ANY: Self = Self(7);

    pub(super) fn of(branches: &[Branch]) -> Self {
        let set = branches.iter().fold(0, |set, branch| {
            set | match branch {
                Branch::Succeeded => 1,
                Branch::Failed => 2,
                Branch::Skipped => 4,
            }
        });
        if set == 0 { Self::ANY } else { Self(set) }
    }

    /// Whether an ended stage is in the set. A cancelled one did not succeed.
    pub(crate) fn allows(self, phase: StagePhase) -> bool {
        let bit = match phase {
            StagePhase::Succeeded => 1,
            StagePhase::Failed | StagePhase::Cancelled => 2,
            StagePhase::Skipped => 4,
            StagePhase::Waiting | StagePhase::Pending | StagePhase::Running | StagePhase::Retrying => 0,
        };
        self.0 & bit != 0
    }

    /// Whether only success will do.
    pub(crate) fn only_success(self) -> bool {
        self == Self::SUCCEEDED
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::fmt::Display for Branches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [(1, "Succeeded"), (2, "Failed"), (4, "Skipped")];
        let mut separator = "";
        for (_, word) in words.into_iter().filter(|(bit, _)| self.0 & bit != 0) {
            write!(f, "{separator}{word}")?;
            separator = " or ";
        }
        Ok(())
    }
}

/// Needs by stage: two on the same stage are one that asks for both.
#[derive(Default)]
pub(super) struct Needs(pub(super) Vec<Need>);

impl Needs {
    pub(super) fn add(&mut self, node: usize, on: Branches) {
        match self.0.iter_mut().find(|need| need.node == node) {
            Some(need) => need.on = need.on.and(on),
            None => self.0.push(Need { node, on }),
        }
    }
}
