//! Schedulers that place all Pods of a group or none: what each of them wants to see, as data. Which of them it is, if any, the
//! installation says, and the cluster's own list of kinds.

use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::core::{ApiResource, DynamicObject, TypeMeta};
use serde_json::json;

/// The scheduler that places the ranks of a training together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum GangScheduler {
    /// None: the cluster's own places them one by one, and a job that does not get all of its Pods gives them back.
    None,
    /// The first of these whose PodGroup the cluster has.
    Auto,
    /// The plugin coscheduling of scheduler-plugins.
    Coscheduling,
    /// Volcano.
    Volcano,
}

/// What one of these schedulers wants to see.
#[derive(Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Group and version of its PodGroup.
    group: &'static str,
    version: &'static str,
    /// The name under which it is usually installed.
    scheduler_name: &'static str,
    /// How a Pod names its group.
    member: Member,
}

/// How a Pod names its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// By this label.
    Label(&'static str),
    /// By this annotation.
    Annotation(&'static str),
}

static COSCHEDULING: Adapter = Adapter {
    group: "scheduling.x-k8s.io",
    version: "v1alpha1",
    scheduler_name: "scheduler-plugins-scheduler",
    member: Member::Label("scheduling.x-k8s.io/pod-group"),
};

static VOLCANO: Adapter = Adapter {
    group: "scheduling.volcano.sh",
    version: "v1beta1",
    scheduler_name: "volcano",
    member: Member::Annotation("scheduling.k8s.io/group-name"),
};

impl GangScheduler {
    /// What is looked for, in this order.
    fn candidates(self) -> Vec<&'static Adapter> {
        match self {
            Self::None => Vec::new(),
            Self::Auto => vec![&COSCHEDULING, &VOLCANO],
            Self::Coscheduling => vec![&COSCHEDULING],
            Self::Volcano => vec![&VOLCANO],
        }
    }
}

/// The scheduler of this cluster's trainings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gang {
    adapter: &'static Adapter,
    scheduler_name: String,
}

/// Where a Pod belongs that is placed with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement<'a> {
    /// `schedulerName` of the Pod.
    pub scheduler_name: &'a str,
    /// How it names its group.
    pub member: Member,
}

impl Gang {
    fn new(adapter: &'static Adapter, name: Option<&str>) -> Self {
        Self { adapter, scheduler_name: name.unwrap_or(adapter.scheduler_name).to_owned() }
    }

    /// Looks which of the schedulers that the installation allows the cluster has. Without one trainings go on as without this setting.
    pub(crate) async fn discover(client: &Client, choice: GangScheduler, name: Option<&str>) -> Option<Self> {
        for adapter in choice.candidates() {
            let version = format!("{}/{}", adapter.group, adapter.version);
            match client.list_api_group_resources(&version).await {
                Ok(list) if list.resources.iter().any(|resource| resource.name == "podgroups") => {
                    let gang = Self::new(adapter, name);
                    tracing::info!(kind = %version, scheduler = %gang.scheduler_name, "ranks are placed together");
                    return Some(gang);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(kind = %version, error = %error, "no PodGroup of this kind"),
            }
        }
        if choice != GangScheduler::None {
            tracing::warn!(wanted = ?choice, "the cluster has no PodGroup of a scheduler that places Pods together: ranks are placed one by one");
        }
        None
    }

    pub(crate) fn placement(&self) -> Placement<'_> {
        Placement { scheduler_name: &self.scheduler_name, member: self.adapter.member }
    }

    /// The kind of its PodGroup.
    pub(crate) fn kind(&self) -> ApiResource {
        let Adapter { group, version, .. } = self.adapter;
        ApiResource {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            api_version: format!("{group}/{version}"),
            kind: "PodGroup".to_owned(),
            plural: "podgroups".to_owned(),
        }
    }

    /// The group of the Pods of one attempt.
    pub(crate) fn pod_group(&self, namespace: &str, name: &str, owner: OwnerReference, ranks: u32) -> DynamicObject {
        let kind = self.kind();
        DynamicObject {
            types: Some(TypeMeta { api_version: kind.api_version, kind: kind.kind }),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            data: json!({"spec": {"minMember": ranks}}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_kind_and_its_word() {
        let owner = OwnerReference { name: "fit".into(), ..OwnerReference::default() };
        let shown: Vec<_> = [&COSCHEDULING, &VOLCANO]
            .map(|adapter| {
                let gang = Gang::new(adapter, None);
                let object = gang.pod_group("team", "fit-a1", owner.clone(), 4);
                let types = object.types.unwrap();
                (types.api_version, types.kind, object.data.to_string(), gang.placement().scheduler_name.to_owned())
            })
            .into();
        let of = |version: &str, scheduler: &str| {
            (version.to_owned(), "PodGroup".to_owned(), r#"{"spec":{"minMember":4}}"#.to_owned(), scheduler.to_owned())
        };
        let expected = [
            of("scheduling.x-k8s.io/v1alpha1", "scheduler-plugins-scheduler"),
            of("scheduling.volcano.sh/v1beta1", "volcano"),
        ];
        assert_eq!(shown, expected);
        // As where the plugin is part of the cluster's own scheduler.
        assert_eq!(Gang::new(&COSCHEDULING, Some("default-scheduler")).placement().scheduler_name, "default-scheduler");
    }

    #[test]
    fn nothing_is_looked_for_that_nobody_wants() {
        assert!(GangScheduler::None.candidates().is_empty());
        assert_eq!(GangScheduler::Auto.candidates(), [&COSCHEDULING, &VOLCANO]);
    }
}
