//! Which cases a sweep runs: all that there are, and a seeded choice of them.

use super::case::Places;
use super::fault::{CaseName, Fault, Place, PodPhase, Strike};
use super::proxy;
use super::sweep::Learned;
use super::workload::Workload;
use http::Method;
use std::collections::BTreeMap;

/// How large a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its name.
    pub name: &'static str,
    /// Cases with one fault.
    pub cases: usize,
    /// Cases with two to four faults.
    pub sequences: usize,
    /// Whether every planted mistake must be found, too.
    pub mutants: bool,
}

impl Size {
    /// Every crash, and nothing else.
    pub const CRASHES: Self = Self { name: "crashes", cases: usize::MAX, sequences: 0, mutants: false };
    /// A choice of everything: what `make test` runs.
    pub const SAMPLE: Self = Self { name: "sample", cases: 500, sequences: 30, mutants: false };
    /// What `make faults` runs.
    pub const GATE: Self = Self { name: "gate", cases: 4000, sequences: 200, mutants: true };
    /// Everything that there is, and sequences up to the number.
    pub const FULL: Self = Self { name: "full", cases: 12_000, sequences: 1000, mutants: true };

    /// The size of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::CRASHES, Self::SAMPLE, Self::GATE, Self::FULL].into_iter().find(|size| size.name == name)
    }
}

/// Numbers from a seed (SplitMix64, Steele, Lea and Flood 2014): the same seed gives the same sweep anywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or_default()
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for index in (1..list.len()).rev() {
            list.swap(index, self.below(index + 1));
        }
    }
}

/// Every case with one fault of a workload.
#[must_use]
pub fn all(workload: &Workload, learned: &Learned) -> Vec<CaseName> {
    let Places { writes, events, pods, store, reports } = learned.places;
    let mut cases = Vec::new();
    let mut add = |place, fault| cases.push(CaseName::one(workload.name, place, fault));
    for number in 1..=writes {
        for fault in Fault::ALL.iter().copied().filter(|fault| is_of_writes(*fault)) {
            let write = learned.list.get(number as usize - 1);
            // It strikes at the first deletion from its place on.
            let later = learned.list.get(number as usize - 1..).unwrap_or_default();
            let write =
                if fault == Fault::SwappedPod { later.iter().find(|(method, _)| method == "DELETE") } else { write };
            let fits = write.is_some_and(|(method, path)| {
                method.parse::<Method>().is_ok_and(|method| proxy::applies(fault, &method, path))
            });
            // Two processes cost half a minute: one workload of each kind has them all.
            let elects = fault.class() == 'F';
            if fits && (!elects || matches!(workload.name, "chain5-silent" | "training-restart" | "stage-training")) {
                add(Place::Write(number), fault);
            }
        }
    }
    for number in 1..=events {
        Fault::of_class('C').for_each(|fault| add(Place::Event(number), fault));
    }
    for number in 1..=pods {
        for phase in PodPhase::ALL {
            // A Pod that is no longer its run's goes on: where programs do not end by themselves nothing would. A rank's is deleted.
            let goes_on = workload.job.is_none() && (workload.during.is_some() || workload.end == "Failed");
            let at_pods =
                Fault::of_class('E').filter(|fault| !is_of_writes(*fault) && (!goes_on || *fault != Fault::Disown));
            at_pods.for_each(|fault| add(Place::Pod(number, phase), fault));
        }
        if !workload.bucket {
            add(Place::Pod(number, PodPhase::Created), Fault::CutFile);
        }
    }
    for number in 1..=store {
        Fault::of_class('G')
            .filter(|fault| *fault != Fault::CutFile)
            .for_each(|fault| add(Place::Store(number), fault));
    }
    for number in 1..=reports {
        Fault::of_class('H').for_each(|fault| add(Place::Report(number), fault));
    }
    // A run that fails first is never deleted by its user, who waits for its second stage.
    cases.retain(|case| {
        workload.end != "Deleted" || case.strikes.iter().all(|strike| strike.fault.may_fail_for().is_empty())
    });
    cases
}

/// Whether a fault strikes at writes of the operator.
fn is_of_writes(fault: Fault) -> bool {
    matches!(fault.class(), 'A' | 'B' | 'D' | 'F') || matches!(fault, Fault::ForeignPod | Fault::SwappedPod)
}

/// A choice of cases with one fault: of every class its share, and of each workload by its weight.
#[must_use]
pub fn choose(all: &[CaseName], number: usize, random: &mut Random) -> Vec<CaseName> {
    if number >= all.len() {
        return all.to_vec();
    }
    let mut classes: BTreeMap<char, Vec<&CaseName>> = BTreeMap::new();
    for case in all {
        classes.entry(case.class()).or_default().push(case);
    }
    for cases in classes.values_mut() {
        random.shuffle(cases);
        // Heavy workloads come last: the sort keeps the order among equals.
        let heavy = |case: &&CaseName| Workload::named(&case.workload).is_some_and(|workload| workload.weight < 4);
        let (light, rest): (Vec<&CaseName>, Vec<&CaseName>) = cases.iter().copied().partition(|case| !heavy(case));
        // One heavy case after every eight light ones.
        let mut rest = rest.into_iter();
        let mut mixed = Vec::with_capacity(cases.len());
        for (index, case) in light.into_iter().enumerate() {
            mixed.push(case);
            if index % 8 == 7 {
                mixed.extend(rest.next());
            }
        }
        mixed.extend(rest);
        *cases = mixed;
    }
    // Small classes are taken whole; what they leave goes to the others.
    let mut chosen = Vec::with_capacity(number);
    let mut waiting: Vec<Vec<&CaseName>> = classes.into_values().collect();
    waiting.sort_by_key(Vec::len);
    let mut left = waiting.len();
    for cases in waiting {
        let share = (number - chosen.len()) / left;
        left -= 1;
        chosen.extend(cases.into_iter().take(share).cloned());
    }
    chosen
}

/// A case with two to four faults, by its number.
#[must_use]
pub fn sequence(seed: u64, known: &[(Workload, Learned)]) -> Option<CaseName> {
    let mut random = Random::new(seed);
    let mut light: Vec<&(Workload, Learned)> = known.iter().filter(|(workload, _)| workload.weight >= 4).collect();
    // Where only heavy ones were asked for, these.
    if light.is_empty() {
        light = known.iter().collect();
    }
    let (workload, learned) = light.get(random.below(light.len()))?;
    let quick: Vec<CaseName> = all(workload, learned).into_iter().filter(|case| !case.is_slow()).collect();
    let mut strikes: Vec<Strike> = Vec::new();
    for _ in 0..2 + random.below(3) {
        let strike = *quick.get(random.below(quick.len()))?.strikes.first()?;
        if strikes.iter().all(|other| other.place != strike.place) {
            strikes.push(strike);
        }
    }
    (strikes.len() > 1).then(|| CaseName { workload: workload.name.to_owned(), strikes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::invariants::Summary;
    use std::time::Duration;

    fn learned() -> Learned {
        let pods = "/api/v1/namespaces/n/pods";
        let status = "/apis/trainyard.dev/v1alpha1/namespaces/n/pipelineruns/run/status";
        let list = [("POST", pods), ("PATCH", status)].map(|(method, path)| (method.to_owned(), path.to_owned()));
        let places = Places { writes: 2, events: 3, pods: 1, store: 0, reports: 1 };
        Learned { places, summary: Summary::default(), took: Duration::ZERO, list: list.to_vec() }
    }

    #[test]
    fn every_place_meets_every_fault_that_fits() {
        let workload = Workload::named("single").unwrap();
        let cases = all(&workload, &learned());
        let has = |text: &str| cases.iter().any(|case| case.to_string() == text);
        assert!(has("B:single:write=1:Quota") && !has("B:single:write=2:Quota"));
        assert!(has("B:single:write=2:TooLargeForEtcd") && !has("B:single:write=1:TooLargeForEtcd"));
        assert!(
            has("C:single:event=3:BlackHole")
                && has("E:single:pod=1.Ended:Evict")
                && has("H:single:report=1:ReportForged")
        );
        assert!(has("G:single:pod=1.Created:CutFile") && !cases.iter().any(|case| case.class() == 'F'));
    }

    #[test]
    fn a_choice_is_the_same_for_the_same_seed_and_has_every_class() {
        let cases = all(&Workload::named("single").unwrap(), &learned());
        let chosen = |seed| choose(&cases, 30, &mut Random::new(seed));
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        let classes: std::collections::BTreeSet<char> = chosen(1).iter().map(CaseName::class).collect();
        assert_eq!(classes.into_iter().collect::<String>(), "ABCDEGH");
        assert_eq!(choose(&cases, 100_000, &mut Random::new(1)), cases);
    }

    #[test]
    fn sequences_have_two_to_four_faults_at_different_places() {
        for name in ["single", "backfill"] {
            let known = [(Workload::named(name).unwrap(), learned())];
            let cases: Vec<CaseName> = (0..50).filter_map(|seed| sequence(seed, &known)).collect();
            assert!(cases.len() > 25, "{name}");
            for case in cases {
                assert!((2..=4).contains(&case.strikes.len()) && !case.is_slow(), "{case}");
            }
        }
    }
}
