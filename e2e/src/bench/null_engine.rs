//! The null engine: what the cluster allows. It creates Pods in the order of what they need, from a watch, and writes nothing
//! else: no status, no record, no retry. An engine is measured as a share of it.

use std::collections::HashSet;

use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Error;
use super::graphs::Needs;

/// Label of its Pods: the number of the node of the graph.
pub const NODE: &str = "null-engine/node";
/// A watch lasts longer than any run here.
const WATCH_SECONDS: u32 = 290;

/// The Pods of one run, and who is told early that one has succeeded.
pub struct NullEngine<'a> {
    /// Where Pods are created; nobody else creates any there.
    pub pods: Api<Pod>,
    /// What each node needs.
    pub needs: &'a Needs,
    /// The Pod of a node; the engine labels it.
    pub pod: &'a (dyn Fn(usize) -> Pod + Sync),
    /// Where Pods report their success themselves; without it the watch says so.
    pub reports: Option<mpsc::UnboundedReceiver<usize>>,
}

impl NullEngine<'_> {
    /// Runs the graph to its end, which is when the watch shows that every Pod has succeeded.
    pub async fn run(mut self) -> Result<(), Error> {
        let listed = self.pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let mut version = listed.unwrap_or_default();
        let parameters = WatchParams::default().labels(NODE).timeout(WATCH_SECONDS);
        let mut watch = self.pods.watch(&parameters, &version).await?.boxed();
        let mut reports = self.reports.take();
        let mut waits: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let (mut started, mut seen) = (HashSet::new(), HashSet::new());
        // Creates do not hold up the watch: the API server ends one that is not read.
        let mut creating = FuturesUnordered::new();
        creating.extend((0..waits.len()).filter(|node| waits[*node] == 0).map(|node| self.create(node)));
        while seen.len() < waits.len() {
            let done = tokio::select! {
                event = watch.try_next() => match event? {
                    Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                        version = pod.metadata.resource_version.clone().unwrap_or(version);
                        succeeded(&pod)?.inspect(|node| {
                            seen.insert(*node);
                        })
                    }
                    Some(WatchEvent::Error(error)) => return Err(kube::Error::Api(error).into()),
                    Some(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)) => None,
                    // The API server ends a watch whose events are not taken in time, as on a machine that is too busy.
                    None => {
                        watch = self.pods.watch(&parameters, &version).await?.boxed();
                        None
                    }
                },
                Some(node) = report(reports.as_mut()) => Some(node),
                Some(created) = creating.next() => {
                    created?;
                    None
                }
            };
            let Some(done) = done.filter(|node| started.insert(*node)) else { continue };
            for (node, needs) in self.needs.iter().enumerate().filter(|(_, needs)| needs.contains(&done)) {
                waits[node] = waits[node].saturating_sub(needs.iter().filter(|need| **need == done).count());
                if waits[node] == 0 {
                    creating.push(self.create(node));
                }
            }
        }
        Ok(())
    }

    async fn create(&self, node: usize) -> Result<(), Error> {
        let mut pod = (self.pod)(node);
        pod.metadata.labels.get_or_insert_default().insert(NODE.to_owned(), node.to_string());
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }
}

/// The node of a Pod that has succeeded.
fn succeeded(pod: &Pod) -> Result<Option<usize>, Error> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => Ok(pod.metadata.labels.as_ref().and_then(|labels| labels.get(NODE)?.parse().ok())),
        Some("Failed") => Err(Error::NullEngine(format!("Pod {name} failed; see its termination message"))),
        _ => Ok(None),
    }
}

/// The next early report; never, where there are none.
async fn report(reports: Option<&mut mpsc::UnboundedReceiver<usize>>) -> Option<usize> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

/// Listens for early reports: the number of a node, as a line on a connection of its own.
pub async fn listen(host: &str) -> Result<(String, mpsc::UnboundedReceiver<usize>), Error> {
    let failed = |source| Error::Listen { address: host.to_owned(), source };
    let listener = TcpListener::bind((host, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut lines = BufReader::new(stream).lines();
            if let Ok(Some(line)) = lines.next_line().await
                && let Ok(node) = line.trim().parse()
                && sender.send(node).is_err()
            {
                break;
            }
        }
    });
    Ok((address, receiver))
}
