//! Many objects, deleted.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStore;

use super::{Backend, Store, StoreError};

/// Objects of one request: the most that S3 takes.
const TOGETHER: usize = 1_000;

impl Store {
    /// Deletes the objects, and on a volume the directories that are then empty. What is gone already is fine.
    pub(crate) async fn remove(&self, keys: &[String]) -> Result<(), StoreError> {
        let objects: Arc<dyn ObjectStore> = match &self.backend {
            Backend::Cloud { store, .. } => store.clone(),
            Backend::Local { store, .. } => Arc::new(store.as_ref().clone().with_automatic_cleanup(true)),
        };
        for keys in keys.chunks(TOGETHER) {
            let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
            let name = keys.first().map(|key| self.name(key)).unwrap_or_default();
            let delete = || {
                let paths = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
                objects.delete_stream(paths).map(gone_is_fine).try_collect::<()>()
            };
            self.trying(&name, delete).await?;
        }
        Ok(())
    }
}

fn gone_is_fine<T>(deleted: object_store::Result<T>) -> object_store::Result<()> {
    match deleted {
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
