//! Planted mistakes, for tests that must find them: see `e2e/src/faults/mutants.rs`. Without the cargo feature `mutants`, which no
//! shipped build has, nothing is ever planted and the compiler leaves out what would be done.

/// The variable that names the mistake.
#[cfg(feature = "mutants")]
const ENV: &str = "TRAINYARD_MUTANT";

/// Whether this mistake is planted.
#[cfg(feature = "mutants")]
pub(crate) fn is(name: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var(ENV).ok()).as_deref() == Some(name)
}

/// Whether this mistake is planted: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}
