//! What can go wrong with a store, in the words of a person who has to do something about it.

use std::error::Error as StdError;

use step_protocol::Outcome;

use super::http::Refused;

/// A store's answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{object} does not exist")]
    NotFound { object: String },
    #[error("{object} exists already")]
    Exists { object: String },
    #[error("the store refused {object} ({detail}): {hint}")]
    Denied { object: String, detail: String, hint: &'static str },
    #[error("the store did not do {object} in {seconds} s and {tries} tries; the last answer was: {detail}")]
    Unavailable { object: String, detail: String, tries: u32, seconds: u64 },
    #[error("the store {detail}")]
    Unsupported { detail: String },
    #[error("no room for {object}: the disk or volume is full; free some or make it larger")]
    DiskFull { object: String },
    #[error("the store cannot be used: {0}")]
    Config(String),
    #[error("{object} is not what it should be: {detail}")]
    Corrupt { object: String, detail: String },
    #[error("failed to read {object}: {source}")]
    Local { object: String, source: std::io::Error },
    #[error("given up while the attempt is ending")]
    Stopped,
}

impl StoreError {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::NotFound { .. } => Outcome::InputMissing,
            Self::Exists { .. } | Self::Local { .. } => Outcome::RunnerError,
            Self::Denied { .. } => Outcome::StoreAccessDenied,
            Self::Unavailable { .. } => Outcome::StoreUnavailable,
            Self::Unsupported { .. } => Outcome::StoreUnsupported,
            Self::DiskFull { .. } => Outcome::DiskFull,
            Self::Config(_) => Outcome::ConfigError,
            Self::Corrupt { .. } => Outcome::ArtifactCorrupt,
            Self::Stopped => Outcome::Disrupted,
        }
    }

    /// Whether the same request may be answered otherwise a little later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl From<StoreError> for crate::failure::Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.outcome(), error.to_string())
    }
}

const KEYS: &str = "check the keys in the store's Secret and that they may list, read and write below the store's prefix \
                    (without the right to list, a missing object looks like a refused one)";
const VOLUME: &str = "the volume is not writable for the stage's user; set `pod.fsGroup` or the volume's permissions";

/// Reads `object_store`'s error. Bodies of answers are never quoted: they may repeat a key.
pub(super) fn classify(object: &str, error: object_store::Error) -> StoreError {
    use object_store::Error;
    let object = object.to_owned();
    if let Some(refused) = find::<Refused>(&error) {
        return refused.explain(object);
    }
    if let Some(io) = find::<std::io::Error>(&error) {
        if crate::failure::is_disk_full(io) {
            return StoreError::DiskFull { object };
        }
        match io.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                return StoreError::Denied { object, detail: io.to_string(), hint: VOLUME };
            }
            std::io::ErrorKind::Unsupported => {
                return StoreError::Unsupported { detail: format!("cannot do {object}: {io}; {USE_URI}") };
            }
            // These will not be otherwise later.
            std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::InvalidFilename
            | std::io::ErrorKind::InvalidInput => {
                return StoreError::Config(format!("{object}: {io}"));
            }
            _ => {}
        }
    }
    match error {
        Error::NotFound { .. } => StoreError::NotFound { object },
        Error::AlreadyExists { .. } => StoreError::Exists { object },
        Error::PermissionDenied { .. } => StoreError::Denied { object, detail: "403".into(), hint: KEYS },
        Error::Unauthenticated { .. } => StoreError::Denied { object, detail: "401".into(), hint: KEYS },
        Error::NotImplemented { operation, .. } => {
            StoreError::Unsupported { detail: format!("does not offer {operation}") }
        }
        Error::NotSupported { source } => StoreError::Config(source.to_string()),
        Error::InvalidPath { source } => StoreError::Config(format!("{object}: {source}")),
        Error::UnknownConfigurationKey { key, .. } => StoreError::Config(format!("unknown setting {key}")),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            StoreError::Corrupt { object, detail: "it changed while it was read".into() }
        }
        other => match refused_one(&other) {
            Some(code) if code == "AccessDenied" => StoreError::Denied { object, detail: code, hint: KEYS },
            Some(detail) => StoreError::Unavailable { object, detail, tries: 1, seconds: 0 },
            None => StoreError::Unavailable { object, detail: root_cause(&other), tries: 1, seconds: 0 },
        },
    }
}

/// What to do about a volume that lacks hard links or renames.
pub(super) const USE_URI: &str = "a bucket that a CSI driver mounts cannot create exclusively or rename atomically: name the \
                                  bucket itself as the store's `uri` (s3://, gs://, az://), or use a claim on a real file system";

impl Refused {
    fn explain(&self, object: String) -> StoreError {
        let detail = self.to_string();
        match (self.status, self.code.as_deref()) {
            (401 | 403, _) => StoreError::Denied { object, detail, hint: KEYS },
            (416, _) => StoreError::Corrupt { object, detail: "it is shorter than expected".into() },
            (404, _) => StoreError::Config(format!("{object}: {detail}; make the bucket or correct `store.uri`")),
            (300..=399, _) => {
                StoreError::Config(format!("{object}: {detail}; set the bucket's own `store.s3.region` and endpoint"))
            }
            (501, _) | (_, Some("NotImplemented")) => StoreError::Unsupported {
                detail: format!(
                    "does not do {object} ({detail}); Trainyard needs conditional writes (If-None-Match): use a store or a \
                     newer version of it that has them"
                ),
            },
            (408 | 429 | 500.., _) | (_, Some("RequestTimeout" | "SlowDown")) => {
                StoreError::Unavailable { object, detail, tries: 1, seconds: 0 }
            }
            _ => StoreError::Config(format!("{object}: {detail}")),
        }
    }
}

/// The first error of type `T` in the chain of causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The code by which S3 refuses to delete one of many objects. `object_store` has it in a text only.
fn refused_one(error: &(dyn StdError + 'static)) -> Option<String> {
    let text = innermost(error).to_string();
    let (_, code) = text.strip_suffix(')')?.rsplit_once("(code: ")?;
    let is_word = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (text.starts_with("DeleteObjects request failed") && is_word).then(|| code.to_owned())
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// The innermost cause, which is the one that says something ("connection refused").
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut text = innermost(error).to_string();
    text.truncate(text.char_indices().nth(300).map_or(text.len(), |(end, _)| end));
    text
}
