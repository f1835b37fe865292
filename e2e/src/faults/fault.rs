//! Faults, and the one word by which a case is run again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $class:literal $name:ident,)+) => {
        /// What is done in a case, by the classes of the design: A crashes, B answers, C watches, D stale reads, E Pods, F leaders,
        /// G store. H are early reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every fault, in order of classes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The letter of its class.
            #[must_use]
            pub const fn class(self) -> char {
                match self {
                    $(Self::$name => $class,)+
                }
            }
        }
    };
}

faults! {
    /// Killed before the request is sent on: it never happened, and the operator does not know.
    'A' KillBefore,
    /// Killed after the API server has done it and before the answer arrives: it happened, and the operator does not know.
    'A' KillAfterCommit,
    /// Killed after the answer was handed over: it happened, and what follows did not.
    'A' KillAfterReply,

    /// 409, and nothing was done.
    'B' Conflict,
    /// 429 with `Retry-After: 1`, and nothing was done.
    'B' TooManyRequests,
    /// 500, and nothing was done.
    'B' InternalError,
    /// 503, and nothing was done.
    'B' Unavailable,
    /// 504 although it was done.
    'B' GatewayTimeout,
    /// No answer, and nothing was done.
    'B' TimeoutBefore,
    /// No answer although it was done.
    'B' TimeoutAfterCommit,
    /// The connection is cut, and nothing was done.
    'B' ResetBefore,
    /// The connection is cut although it was done.
    'B' ResetAfterCommit,
    /// 403 as of a namespace without quota.
    'B' Quota,
    /// 422, and nothing was done.
    'B' Invalid,
    /// What etcd says to an object that is too large.
    'B' TooLargeForEtcd,
    /// What the API server says to a body that is too large.
    'B' TooLargeForServer,
    /// What the API server's client of etcd says to a message that is too large.
    'B' TooLargeForMessage,

    /// The event never arrives.
    'C' Drop,
    /// The event and what follows arrive a second later.
    'C' DelayOneSecond,
    /// The event and what follows arrive ten seconds later.
    'C' DelayTenSeconds,
    /// The event and what follows arrive a minute later.
    'C' DelayOneMinute,
    /// The event arrives twice.
    'C' Duplicate,
    /// The watch is cut instead of the event.
    'C' Disconnect,
    /// The watch says 410 instead of the event: everything is listed again.
    'C' Expired,
    /// Nothing arrives for two minutes, on a connection that stays open.
    'C' BlackHole,

    /// Killed after the answer; the lists that the next process is served are one version old.
    'D' StaleByOne,
    /// Killed after the answer; the lists that the next process is served are five versions old.
    'D' StaleByFive,
    /// Killed after the answer; the lists that the next process is served are of before the first Pod.
    'D' StaleFromTheStart,
    /// Killed after the answer; the next process is shown runs as they are, but no Pod, and none for two seconds.
    'D' StalePods,

    /// Deleted, with its grace.
    'E' Delete,
    /// Deleted without grace: its program may go on for a moment.
    'E' ForceDelete,
    /// Evicted.
    'E' Evict,
    /// Its status says that it failed, as of a node that ran out of something.
    'E' Fail,
    /// Its label of the run is removed: it leaves the operator's watch.
    'E' Relabel,
    /// Its owner is removed.
    'E' Disown,
    /// Its node is cut off: its program goes on and nobody hears of it; it is deleted by force a second later.
    'E' NodeLost,
    /// Its status says that it succeeded, and there is no commit.
    'E' SucceedWithoutCommit,
    /// A Pod of the name that the operator is about to create is there already.
    'E' ForeignPod,
    /// The Pod that the operator is about to delete is gone, and another one has its name.
    'E' SwappedPod,

    /// Stopped before its write is sent on, for longer than its lease; the write is done when another process leads.
    'F' FreezeBefore,
    /// Stopped after its write, for longer than its lease.
    'F' FreezeAfterReply,

    /// 500.
    'G' StoreInternalError,
    /// 503 `SlowDown`.
    'G' StoreSlowDown,
    /// 403 `ExpiredToken`.
    'G' StoreDenied,
    /// The connection is cut before anything is done.
    'G' StoreReset,
    /// It was done, and the connection is cut before the answer.
    'G' StoreLostReply,
    /// Half of the answer's body, and the connection is cut.
    'G' StoreCut,
    /// Half of the answer's body, as if that were all.
    'G' StoreShort,
    /// One bit of the answer's body differs.
    'G' StoreBitFlip,
    /// The runner is killed before the request is sent on.
    'G' RunnerKilledBefore,
    /// The runner is killed when the request is done.
    'G' RunnerKilledAfter,
    /// The runner cannot write more than 256 bytes to a file: it is killed in the middle of its commit record.
    'G' CutFile,

    /// It never arrives.
    'H' ReportLost,
    /// It arrives when the kubelet has shown the end.
    'H' ReportDelayed,
    /// It arrives three times.
    'H' ReportRepeated,
    /// Others arrive before it: of another stage, with another signature, and garbled.
    'H' ReportForged,
    /// It is refused with 503.
    'H' ReportRefused,
}

/// What the run's end may differ in from that of the run without the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// Nothing.
    Same,
    /// The number of attempts and of Pods.
    OtherAttempts,
    /// It may have failed for one of these reasons.
    OrFailed(&'static [&'static str]),
}

impl Fault {
    /// The faults of one class.
    pub fn of_class(class: char) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |fault| fault.class() == class)
    }

    /// What it may change in the end.
    #[must_use]
    pub const fn expected(self) -> Expected {
        match self {
            Self::Invalid | Self::TooLargeForServer => Expected::OrFailed(&["PodRejected"]),
            Self::ForeignPod | Self::Disown => Expected::OrFailed(&["NameConflict"]),
            Self::StoreDenied => Expected::OrFailed(&["StoreAccessDenied"]),
            Self::Delete
            | Self::ForceDelete
            | Self::Evict
            | Self::Fail
            | Self::Relabel
            | Self::NodeLost
            | Self::SucceedWithoutCommit
            | Self::SwappedPod
            | Self::StoreInternalError
            | Self::StoreSlowDown
            | Self::StoreReset
            | Self::StoreLostReply
            | Self::StoreCut
            | Self::StoreShort
            | Self::StoreBitFlip
            | Self::RunnerKilledBefore
            | Self::RunnerKilledAfter
            | Self::CutFile => Expected::OtherAttempts,
            _ => Expected::Same,
        }
    }

    /// The reasons for which the run may fail because of it.
    #[must_use]
    pub const fn may_fail_for(self) -> &'static [&'static str] {
        match self.expected() {
            Expected::OrFailed(reasons) => reasons,
            Expected::Same | Expected::OtherAttempts => &[],
        }
    }

    /// How long it holds things up beyond what the run itself takes.
    #[must_use]
    pub const fn holds(self) -> Duration {
        Duration::from_secs(match self {
            Self::Drop => 130,
            Self::BlackHole | Self::TimeoutBefore | Self::TimeoutAfterCommit => 120,
            Self::DelayOneMinute => 65,
            Self::DelayTenSeconds => 10,
            Self::FreezeBefore | Self::FreezeAfterReply => 40,
            Self::Quota => 20,
            Self::StoreInternalError | Self::StoreSlowDown | Self::StoreReset | Self::StoreLostReply => 20,
            _ => 0,
        })
    }

    /// Whether a case with it mostly waits: many of these go on at the same time.
    #[must_use]
    pub fn is_slow(self) -> bool {
        self.holds() >= Duration::from_secs(10)
    }
}

/// Where a fault strikes. Numbers count from 1, over a whole case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// At a write of the operator.
    Write(u32),
    /// At an event of one of the operator's watches.
    Event(u32),
    /// At a Pod, counted as they are created, when it reaches a phase.
    Pod(u32, PodPhase),
    /// At a request of a runner to the store.
    Store(u32),
    /// At an early report.
    Report(u32),
}

/// How far a Pod is when something is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// It was created.
    Created,
    /// Its program runs.
    Running,
    /// It has ended, and is shown so.
    Ended,
}

impl PodPhase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Created, Self::Running, Self::Ended];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(number) => write!(f, "write={number}"),
            Self::Event(number) => write!(f, "event={number}"),
            Self::Pod(number, phase) => write!(f, "pod={number}.{phase:?}"),
            Self::Store(number) => write!(f, "store={number}"),
            Self::Report(number) => write!(f, "report={number}"),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, rest) = text.split_once('=').ok_or(())?;
        let (number, phase) = rest.split_once('.').map_or((rest, None), |(number, phase)| (number, Some(phase)));
        let number = number.parse().ok().filter(|number| *number > 0).ok_or(())?;
        match (kind, phase) {
            ("write", None) => Ok(Self::Write(number)),
            ("event", None) => Ok(Self::Event(number)),
            ("store", None) => Ok(Self::Store(number)),
            ("report", None) => Ok(Self::Report(number)),
            ("pod", Some(word)) => {
                let phase = PodPhase::ALL.into_iter().find(|phase| format!("{phase:?}") == word).ok_or(())?;
                Ok(Self::Pod(number, phase))
            }
            _ => Err(()),
        }
    }
}

/// A fault at its place. Reads as `write=7:KillAfterCommit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Strike {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.place, self.fault)
    }
}

/// One case: a workload, and what is done to it. Reads as `A:chain5:write=7:KillAfterCommit`; several strikes are joined by `+`
/// and are of class `R`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseName {
    /// Name of the workload.
    pub workload: String,
    /// What is done; at least one.
    pub strikes: Vec<Strike>,
}

impl CaseName {
    /// A case with one fault.
    #[must_use]
    pub fn one(workload: &str, place: Place, fault: Fault) -> Self {
        Self { workload: workload.to_owned(), strikes: vec![Strike { place, fault }] }
    }

    /// The letter of its class: that of its fault, `R` for several.
    #[must_use]
    pub fn class(&self) -> char {
        match self.strikes.as_slice() {
            [only] => only.fault.class(),
            _ => 'R',
        }
    }

    /// The word for its kind of fault.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.strikes.as_slice() {
            [only] => format!("{:?}", only.fault),
            several => format!("{} faults", several.len()),
        }
    }

    /// Whether it mostly waits.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.strikes.iter().any(|strike| strike.fault.is_slow())
    }

    /// How long its faults hold things up.
    #[must_use]
    pub fn holds(&self) -> Duration {
        self.strikes.iter().map(|strike| strike.fault.holds()).sum()
    }
}

impl fmt::Display for CaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.class(), self.workload)?;
        let strikes: Vec<String> = self.strikes.iter().map(Strike::to_string).collect();
        f.write_str(&strikes.join("+"))
    }
}

/// A text that names no case.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no case\nhint: it reads as A:chain5:write=7:KillAfterCommit")]
pub struct NotACase(String);

impl FromStr for CaseName {
    type Err = NotACase;

    fn from_str(text: &str) -> Result<Self, NotACase> {
        let parsed = || {
            let (class, rest) = text.split_once(':')?;
            let (workload, strikes) = rest.split_once(':')?;
            let strike = |text: &str| {
                let (place, word) = text.split_once(':')?;
                let fault = Fault::ALL.iter().copied().find(|fault| format!("{fault:?}") == word)?;
                Some(Strike { place: place.parse().ok()?, fault })
            };
            let strikes = strikes.split('+').map(strike).collect::<Option<Vec<_>>>()?;
            let case = Self { workload: workload.to_owned(), strikes };
            (class == case.class().to_string() && !workload.is_empty()).then_some(case)
        };
        parsed().ok_or_else(|| NotACase(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_found_again_by_its_name() {
        let places =
            [Place::Write(7), Place::Event(12), Place::Pod(2, PodPhase::Running), Place::Store(3), Place::Report(1)];
        for fault in Fault::ALL.iter().copied() {
            for place in places {
                let case = CaseName::one("chain5", place, fault);
                assert_eq!(case.to_string().parse::<CaseName>().unwrap(), case);
            }
        }
        let strikes = vec![
            Strike { place: Place::Write(2), fault: Fault::Conflict },
            Strike { place: Place::Pod(1, PodPhase::Ended), fault: Fault::Delete },
        ];
        let case = CaseName { workload: "single".into(), strikes };
        assert_eq!(case.to_string(), "R:single:write=2:Conflict+pod=1.Ended:Delete");
        assert_eq!(case.to_string().parse::<CaseName>().unwrap(), case);
    }

    #[test]
    fn every_class_has_faults() {
        for class in 'A'..='H' {
            assert!(Fault::of_class(class).count() >= 2, "{class}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let wrong = [
            "",
            "A:chain5:write=0:KillBefore",
            "B:chain5:write=1:KillBefore",
            "A:chain5:1:KillBefore",
            "A:c:write=1:Kill",
            "A:c:write=1:KillBefore:x",
            "E:c:pod=1:Delete",
            "R:c:write=1:KillBefore",
        ];
        for text in wrong {
            assert!(text.parse::<CaseName>().is_err(), "{text}");
        }
    }
}
