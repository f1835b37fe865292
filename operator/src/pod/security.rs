//! As whom the Pod runs: the Pod Security Standard `restricted` unless the stage says `Baseline`.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};
use trainyard_crds::v1alpha1::{PodOverrides, SecurityProfile};

use super::{PodError, PodSettings};

/// The Pod's own. A user that is set is also the group: an image's user 1000 expects its files to belong to group 1000.
pub(super) fn pod(overrides: &PodOverrides, settings: &PodSettings) -> Result<PodSecurityContext, PodError> {
    let (non_root, user) = match overrides.security_profile.unwrap_or_default() {
        SecurityProfile::Restricted => match overrides.run_as_user.or(settings.run_as_user) {
            Some(0) => return Err(PodError::RunsAsRoot),
            user => (Some(true), user),
        },
        SecurityProfile::Baseline => (None, overrides.run_as_user),
    };
    let fs_group = overrides.fs_group.or(settings.run_as_user);
    Ok(PodSecurityContext {
        run_as_non_root: non_root,
        run_as_user: user,
        run_as_group: user,
        fs_group,
        // Without it the kubelet walks through every file of a large volume before each stage.
        fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(seccomp()),
        ..PodSecurityContext::default()
    })
}

/// The stage container's: no capability, in either profile.
pub(super) fn stage_container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        ..SecurityContext::default()
    }
}

/// The runner's own container: `restricted` whatever the stage's profile.
pub(super) fn runner_container(settings: &PodSettings) -> SecurityContext {
    SecurityContext {
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        run_as_user: settings.run_as_user,
        run_as_group: settings.run_as_user,
        seccomp_profile: Some(seccomp()),
        ..stage_container()
    }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}
