//! What there is below a prefix.

use futures_util::TryStreamExt as _;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::{Backend, Store, StoreError};

impl Store {
    /// Where a prefix begins, and what the keys below it begin with.
    fn base(&self, prefix: &str) -> Result<(Path, String), StoreError> {
        let directory = prefix.trim_end_matches('/');
        let path = if directory.is_empty() { self.below.clone() } else { self.path(directory)? };
        let base = if path.as_ref().is_empty() { String::new() } else { format!("{path}/") };
        Ok((path, base))
    }

    /// Whether objects are listed in the order of their keys. Services promise it; a directory has no order.
    pub(crate) fn lists_in_order(&self) -> bool {
        matches!(self.backend, Backend::Cloud { .. })
    }

    /// Adds up every object below `prefix` (which ends with `/`), one after the other as they are listed, by its key relative to it.
    ///
    /// A listing that fails half way begins again, and so does the sum.
    pub(crate) async fn scan<A>(
        &self,
        prefix: &str,
        begin: impl Fn() -> A,
        add: impl Fn(&mut A, String, ObjectMeta),
    ) -> Result<A, StoreError> {
        let (path, base) = self.base(prefix)?;
        let (base, add, name) = (&base, &add, self.name(prefix));
        let listed = self.trying(&name, || {
            self.objects().list(Some(&path)).try_fold(begin(), move |mut sum, meta| {
                if let Some(key) = meta.location.as_ref().strip_prefix(base)
                    && !key.is_empty()
                {
                    let key = key.to_owned();
                    add(&mut sum, key, meta);
                }
                std::future::ready(Ok(sum))
            })
        });
        match listed.await {
            Err(StoreError::NotFound { .. }) => Ok(begin()),
            other => other,
        }
    }

    /// Every object below `prefix` (which ends with `/`): keys relative to it, sorted.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, StoreError> {
        let mut objects = self.scan(prefix, Vec::new, |all, key, meta| all.push((key, meta))).await?;
        objects.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(objects)
    }

    /// The names of the directories right below `prefix` (which ends with `/`), sorted.
    pub(crate) async fn directories(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (path, base) = self.base(prefix)?;
        let listed = self.trying(&self.name(prefix), || self.objects().list_with_delimiter(Some(&path))).await;
        let found = match listed {
            Err(StoreError::NotFound { .. }) => Vec::new(),
            other => other?.common_prefixes,
        };
        let name = |path: &Path| Some(path.as_ref().strip_prefix(&base)?.to_owned());
        let mut names: Vec<String> = found.iter().filter_map(name).filter(|name| !name.is_empty()).collect();
        names.sort();
        Ok(names)
    }
}
