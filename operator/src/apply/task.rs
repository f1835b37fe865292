//! Short Pods that work for a Pipeline.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use trainyard_crds::labels;

use super::{WriteError, Writer, is_controlled};

impl Writer {
    /// Names and UIDs of the short Pods that this Pipeline owns.
    pub(crate) async fn list_task_pods(
        &self,
        namespace: &str,
        pipeline_uid: &str,
    ) -> Result<Vec<(String, String)>, WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let labelled = ListParams::default().labels(&format!("{}={pipeline_uid}", labels::PIPELINE_UID));
        let list = api.list_metadata(&labelled).await.map_err(|error| {
            WriteError::api("list", format!("the Pods of Pipeline {pipeline_uid} in {namespace}"), error)
        })?;
        // Others may have put our labels on Pods of their own.
        let ours = list.items.iter().filter(|pod| is_controlled(&pod.metadata, pipeline_uid));
        Ok(ours.map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect())
    }
}
