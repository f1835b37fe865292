//! Faults, and the one word by which a case is run again.

use std::fmt;
use std::str::FromStr;

/// What is done to the operator at one of its writes: class A of the design, the crashes.
///
/// Another class is another variant here, and what the proxy does at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Killed before the request is sent on: it never happened, and the operator does not know.
    KillBefore,
    /// Killed after the API server has done it and before the answer arrives: it happened, and the operator does not know.
    KillAfterCommit,
    /// Killed after the answer was handed over: it happened, and what follows did not.
    KillAfterReply,
}

impl Fault {
    /// Every fault of class A.
    pub const CRASHES: [Self; 3] = [Self::KillBefore, Self::KillAfterCommit, Self::KillAfterReply];

    /// The letter of its class.
    #[must_use]
    pub const fn class(self) -> char {
        match self {
            Self::KillBefore | Self::KillAfterCommit | Self::KillAfterReply => 'A',
        }
    }
}

/// One case: a workload, a write of the operator, and what is done there. Reads as `A:chain3:k=7:KillAfterCommit`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaseName {
    /// Name of the workload.
    pub workload: String,
    /// Number of the write, from 1.
    pub write: u32,
    /// What is done there.
    pub fault: Fault,
}

impl fmt::Display for CaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:k={}:{:?}", self.fault.class(), self.workload, self.write, self.fault)
    }
}

/// A text that names no case.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no case\nhint: it reads as A:chain3:k=7:KillAfterCommit")]
pub struct NotACase(String);

impl FromStr for CaseName {
    type Err = NotACase;

    fn from_str(text: &str) -> Result<Self, NotACase> {
        let parsed = || {
            let mut parts = text.split(':');
            let (class, workload, write, word) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let fault = Fault::CRASHES.into_iter().find(|fault| format!("{fault:?}") == word)?;
            let write = write.strip_prefix("k=")?.parse().ok().filter(|k| *k > 0)?;
            let whole = parts.next().is_none() && class == fault.class().to_string() && !workload.is_empty();
            whole.then(|| Self { workload: workload.to_owned(), write, fault })
        };
        parsed().ok_or_else(|| NotACase(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_found_again_by_its_name() {
        for fault in Fault::CRASHES {
            let case = CaseName { workload: "chain3".into(), write: 7, fault };
            assert_eq!(case.to_string().parse::<CaseName>().unwrap(), case);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let wrong = [
            "",
            "A:chain3:k=0:KillBefore",
            "B:chain3:k=1:KillBefore",
            "A:chain3:1:KillBefore",
            "A:c:k=1:Kill",
            "A:c:k=1:KillBefore:x",
        ];
        for text in wrong {
            assert!(text.parse::<CaseName>().is_err(), "{text}");
        }
    }
}
