//! The Pod Security Standard `restricted`, written from its text and from the checks of `k8s.io/pod-security-admission`, for tests.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

/// What the Pod violates; empty = `restricted` admits it.
pub(super) fn violations(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.as_ref().expect("a Pod has a spec");
    let mut found = Vec::new();
    let mut check = |fine: bool, what: String| {
        if !fine {
            found.push(what);
        }
    };

    check(spec.host_network != Some(true), "hostNetwork".into());
    check(spec.host_pid != Some(true), "hostPID".into());
    check(spec.host_ipc != Some(true), "hostIPC".into());
    for volume in spec.volumes.iter().flatten() {
        check(restricted_volume(volume), format!("volume {}", volume.name));
    }
    let pod_context = spec.security_context.clone().unwrap_or_default();
    check(pod_context.run_as_user != Some(0), "runAsUser of the Pod".into());
    check(pod_context.sysctls.is_none(), "sysctls".into());
    check(pod_context.se_linux_options.is_none(), "seLinuxOptions of the Pod".into());
    check(pod_context.app_armor_profile.is_none(), "appArmorProfile of the Pod".into());
    for container in containers(spec) {
        let name = &container.name;
        let context = container.security_context.clone().unwrap_or_default();
        check(context.privileged != Some(true), format!("privileged of {name}"));
        check(context.allow_privilege_escalation == Some(false), format!("allowPrivilegeEscalation of {name}"));
        let capabilities = context.capabilities.unwrap_or_default();
        check(
            capabilities.drop.is_some_and(|drop| drop.iter().any(|one| one == "ALL")),
            format!("capabilities.drop of {name}"),
        );
        let added = capabilities.add.unwrap_or_default();
        check(added.iter().all(|one| one == "NET_BIND_SERVICE"), format!("capabilities.add of {name}"));
        check(context.run_as_non_root.or(pod_context.run_as_non_root) == Some(true), format!("runAsNonRoot of {name}"));
        check(context.run_as_user != Some(0), format!("runAsUser of {name}"));
        let seccomp = context.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
        check(
            seccomp.is_some_and(|profile| matches!(profile.type_.as_str(), "RuntimeDefault" | "Localhost")),
            format!("seccompProfile of {name}"),
        );
        check(context.se_linux_options.is_none(), format!("seLinuxOptions of {name}"));
        check(context.app_armor_profile.is_none(), format!("appArmorProfile of {name}"));
        check(context.proc_mount.is_none(), format!("procMount of {name}"));
        let mut ports = container.ports.iter().flatten();
        check(ports.all(|port| port.host_port.is_none()), format!("hostPort of {name}"));
        check(container.lifecycle.is_none() && container.liveness_probe.is_none(), format!("probes of {name}"));
    }
    found
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    assert!(spec.ephemeral_containers.is_none());
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Exactly the kinds that the standard allows.
fn restricted_volume(volume: &Volume) -> bool {
    let Volume {
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        image,
        persistent_volume_claim,
        projected,
        secret,
        ..
    } = volume;
    let allowed = [
        config_map.is_some(),
        csi.is_some(),
        downward_api.is_some(),
        empty_dir.is_some(),
        ephemeral.is_some(),
        image.is_some(),
        persistent_volume_claim.is_some(),
        projected.is_some(),
        secret.is_some(),
    ];
    allowed.iter().filter(|kind| **kind).count() == 1
}
