//! What every reconcile shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::UnboundedSender;
use trainyard_crds::v1alpha1::Pipeline;

use crate::args::{RunnerMode, Settings};
use crate::events::Events;
use crate::gang::Gang;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pod::RunnerMount;
use crate::report::ReportKeys;
use crate::revisions::Revisions;
use crate::training_job::memory::Jobs;

/// What every reconcile shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) keys: ReportKeys,
    pub(crate) events: Events,
    pub(crate) memory: Memory,
    pub(crate) revisions: Revisions,
    pub(crate) jobs: Jobs,
    pub(crate) mount: Mount,
    pub(crate) gang: Option<Gang>,
    /// Pipelines whose status is to be looked at again because a run of theirs moved.
    pub(crate) pipelines: UnboundedSender<ObjectRef<Pipeline>>,
}

/// How the runner comes into stages' images, as far as is known of this cluster.
pub(crate) struct Mount {
    choice: RunnerMode,
    image: AtomicBool,
}

impl Mount {
    /// `images` = whether the API server is new enough for image volumes.
    pub(crate) fn new(choice: RunnerMode, images: bool) -> Self {
        Self { choice, image: AtomicBool::new(images) }
    }

    /// What the next Pod uses.
    pub(crate) fn current(&self) -> RunnerMount {
        match self.choice {
            RunnerMode::Image => RunnerMount::Image,
            RunnerMode::Init => RunnerMount::Init,
            RunnerMode::Auto if self.image.load(Ordering::Relaxed) => RunnerMount::Image,
            RunnerMode::Auto => RunnerMount::Init,
        }
    }

    /// A container with an image volume could not be made: the next Pods do without. Returns whether this is news.
    pub(crate) fn image_failed(&self) -> bool {
        self.choice == RunnerMode::Auto && self.image.swap(false, Ordering::Relaxed)
    }
}
