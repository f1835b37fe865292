//! The network namespace of the node and the pair of links that joins it to the machine.

use super::Error;
use super::plan::Plan;
use crate::command;
use std::path::Path;
use std::process::Command;

/// Makes the namespace unless it is there.
pub(super) fn ensure(plan: &Plan) -> Result<(), Error> {
    if exists(plan) && link_exists(plan) {
        return Ok(());
    }
    remove(plan);
    let (namespace, link) = (plan.namespace(), plan.link());
    let (host, node) = (plan.host_address(), plan.node_address());
    let (pods, services) = (plan.pod_range(), plan.service_range());
    for arguments in [
        format!("netns add {namespace}"),
        format!("link add {link} type veth peer name eth0 netns {namespace}"),
        format!("link set {link} alias trainyard-{}", plan.name()),
        format!("address add {host}/24 dev {link}"),
        format!("link set {link} up"),
        format!("-netns {namespace} link set lo up"),
        format!("-netns {namespace} address add {node}/24 dev eth0"),
        format!("-netns {namespace} link set eth0 up"),
        // A Service's address needs a route before the proxy's rules replace it.
        format!("-netns {namespace} route add {services} dev eth0"),
        // From the machine, Pods and Services are behind the node.
        format!("route replace {pods} via {node}"),
        format!("route replace {services} via {node}"),
    ] {
        ip(&arguments)?;
    }
    // Replies between two Pods of the same bridge must pass the rules that replaced the Service's address. Where the
    // kernel has this as a module that cannot be loaded, Services are reached from other addresses only.
    let _ = command::succeeds(Command::new("modprobe").arg("br_netfilter"));
    for (setting, needed) in [("net.ipv4.ip_forward=1", true), ("net.bridge.bridge-nf-call-iptables=1", false)] {
        let mut sysctl = Command::new("nsenter");
        sysctl.arg(format!("--net=/run/netns/{namespace}")).args(["sysctl", "-qw", setting]);
        if let Err(error) = command::run(&mut sysctl)
            && needed
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Removes the namespace with everything in it, and the machine's end of the pair.
pub(super) fn remove(plan: &Plan) {
    if link_exists(plan) && is_ours(plan) {
        let _ = ip(&format!("link delete {}", plan.link()));
    }
    if exists(plan) {
        let _ = ip(&format!("netns delete {}", plan.namespace()));
    }
}

fn exists(plan: &Plan) -> bool {
    Path::new("/run/netns").join(plan.namespace()).exists()
}

fn link_exists(plan: &Plan) -> bool {
    link_folder(plan).exists()
}

/// Whether the link of the plan's name is free, or was made for the plan's cluster.
pub(super) fn is_ours(plan: &Plan) -> bool {
    !link_exists(plan)
        || std::fs::read_to_string(link_folder(plan).join("ifalias"))
            .is_ok_and(|alias| alias.trim() == format!("trainyard-{}", plan.name()))
}

fn link_folder(plan: &Plan) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(plan.link())
}

fn ip(arguments: &str) -> Result<String, Error> {
    Ok(command::run(Command::new("ip").args(arguments.split(' ')))?)
}
