//! Go programs from pinned modules, built once per version into the cache.

use super::Error;
use crate::paths::{self, Directories};
use crate::{command, progress};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A product that is built from the Go module in `e2e/cluster/<name>`, at the version which that pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// API server, controller manager, scheduler, kubelet, proxy, kubectl.
    Kubernetes,
    /// The container runtime, its shim and its client.
    Containerd,
    /// The API server's store.
    Etcd,
    /// Names in the cluster.
    CoreDns,
    /// An S3 server over a folder.
    Versitygw,
    /// Nodes and Pods that only exist in the API.
    Kwok,
    /// Charts.
    Helm,
    /// Pushes images to a registry.
    Crane,
    /// Copies to and from S3: what the runner is measured against.
    S5cmd,
    /// What GitOps tools ask for the health of objects: kstatus, in a small tool that applies, waits and prunes.
    CliUtils,
}

impl Product {
    /// Folder of the module, and the name in the cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Containerd => "containerd",
            Self::Etcd => "etcd",
            Self::CoreDns => "coredns",
            Self::Versitygw => "versitygw",
            Self::Kwok => "kwok",
            Self::Helm => "helm",
            Self::Crane => "crane",
            Self::S5cmd => "s5cmd",
            Self::CliUtils => "cli-utils",
        }
    }

    /// The product whose module is in the folder `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [Product; 10] = [
            Product::Kubernetes,
            Product::Containerd,
            Product::Etcd,
            Product::CoreDns,
            Product::Versitygw,
            Product::Kwok,
            Product::Helm,
            Product::Crane,
            Product::S5cmd,
            Product::CliUtils,
        ];
        ALL.into_iter().find(|product| product.name() == name)
    }

    /// The Go module whose version is the product's.
    fn module(self) -> &'static str {
        match self {
            Self::Kubernetes => "k8s.io/kubernetes",
            Self::Containerd => "github.com/containerd/containerd/v2",
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::CoreDns => "github.com/coredns/coredns",
            Self::Versitygw => "github.com/versity/versitygw",
            Self::Kwok => "sigs.k8s.io/kwok",
            Self::Helm => "helm.sh/helm/v3",
            Self::Crane => "github.com/google/go-containerregistry",
            Self::S5cmd => "github.com/peak/s5cmd/v2",
            Self::CliUtils => "sigs.k8s.io/cli-utils",
        }
    }

    /// The packages to build, below the module, and the names of the programs.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Kubernetes => &[
                ("/cmd/kube-apiserver", "kube-apiserver"),
                ("/cmd/kube-controller-manager", "kube-controller-manager"),
                ("/cmd/kube-scheduler", "kube-scheduler"),
                ("/cmd/kubelet", "kubelet"),
                ("/cmd/kube-proxy", "kube-proxy"),
                ("/cmd/kubectl", "kubectl"),
            ],
            Self::Containerd => &[
                ("/cmd/containerd", "containerd"),
                ("/cmd/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
                ("/cmd/ctr", "ctr"),
            ],
            Self::Etcd => &[("", "etcd")],
            Self::CoreDns => &[("", "coredns")],
            Self::Versitygw => &[("/cmd/versitygw", "versitygw")],
            Self::Kwok => &[("/cmd/kwok", "kwok")],
            Self::Helm => &[("/cmd/helm", "helm")],
            Self::Crane => &[("/cmd/crane", "crane")],
            Self::S5cmd => &[("", "s5cmd")],
            Self::CliUtils => &[("/cmd", "kapply")],
        }
    }

    fn tags(self) -> &'static str {
        match self {
            // Snapshotters that would need C libraries and that no cluster here uses.
            Self::Containerd => "no_btrfs no_devmapper no_zfs",
            _ => "",
        }
    }

    /// Kubernetes takes its version from the linker: without it, the API server calls itself v0.0.0 and clients refuse.
    fn link_flags(self, version: &str) -> String {
        let strip = "-s -w";
        if self != Self::Kubernetes {
            return strip.to_owned();
        }
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        let set = "-X k8s.io/component-base/version.git";
        format!("{strip} {set}Version={version} {set}Major={major} {set}Minor={minor}")
    }

    fn folder(self) -> PathBuf {
        paths::repository().join("e2e/cluster").join(self.name())
    }

    /// The version that the module file pins.
    pub fn version(self) -> Result<String, Error> {
        let file = self.folder().join("go.mod");
        let text = fs::read_to_string(&file).map_err(Error::file(&file))?;
        pinned_version(&text, self.module()).ok_or(Error::NoVersion { file, module: self.module() })
    }

    /// Builds the product unless it is in the cache, and returns the folder of its programs.
    pub fn ensure(self, directories: &Directories) -> Result<PathBuf, Error> {
        let version = self.version()?;
        let folder = directories.cache.join("bin").join(format!("{}-{version}", self.name()));
        if self.programs().iter().all(|(_, name)| folder.join(name).is_file()) {
            return Ok(folder);
        }
        if !command::on_path("go") {
            return Err(Error::NoGo { what: format!("{} {version}", self.name()) });
        }
        progress::long_step(&format!("building {} {version}", self.name()), || self.build(&version, &folder))?;
        Ok(folder)
    }

    fn build(self, version: &str, folder: &Path) -> Result<(), Error> {
        // Beside the final folder, and moved there as a whole: a build that was interrupted is never taken for a built one.
        let unfinished = folder.with_file_name(format!(".{}-{version}.{}", self.name(), std::process::id()));
        fs::create_dir_all(&unfinished).map_err(Error::file(&unfinished))?;
        let mut go = Command::new("go");
        go.arg("build").arg("-C").arg(self.folder()).args(["-mod=readonly", "-trimpath", "-tags", self.tags()]);
        go.arg("-ldflags").arg(self.link_flags(version)).arg("-o").arg(format!("{}/", unfinished.display()));
        go.args(self.programs().iter().map(|(package, _)| format!("{}{package}", self.module())));
        // GOGC: a third less time for 1 GB more memory at the peak.
        go.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GOGC", "400").env_remove("GOBIN");
        let log = folder.with_extension("build.log");
        command::run_logged(&mut go, &log)
            .map_err(|source| Error::Build { what: format!("{} {version}", self.name()), source })?;
        for (package, name) in self.programs() {
            let built = unfinished.join(default_name(&format!("{}{package}", self.module())));
            let wanted = unfinished.join(name);
            if built != wanted {
                fs::rename(&built, &wanted).map_err(Error::file(built))?;
            }
        }
        let _ = fs::remove_dir_all(folder);
        fs::rename(&unfinished, folder).map_err(Error::file(folder))?;
        let _ = fs::remove_file(log);
        Ok(())
    }
}

/// The name that `go build` gives the program of a package: the last element of its path that is no major version.
fn default_name(package: &str) -> &str {
    let is_version = |element: &&str| {
        element.strip_prefix('v').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    package.rsplit('/').find(|element| !is_version(element)).unwrap_or(package)
}

/// The version of `module` that the text of a `go.mod` requires.
fn pinned_version(text: &str, module: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|v| v.starts_with('v')).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_module_files() {
        let text = "module x\n\nrequire k8s.io/kubernetes v1.36.2\n\nrequire (\n\tk8s.io/api v0.36.2 // indirect\n)\n\
                    replace k8s.io/cri-api => k8s.io/cri-api v0.36.2\n";
        assert_eq!(pinned_version(text, "k8s.io/kubernetes").as_deref(), Some("v1.36.2"));
        assert_eq!(pinned_version(text, "k8s.io/api").as_deref(), Some("v0.36.2"));
        assert_eq!(pinned_version(text, "k8s.io/cri-api"), None);
    }

    #[test]
    fn every_product_is_pinned() {
        for name in
            ["kubernetes", "containerd", "etcd", "coredns", "versitygw", "kwok", "helm", "crane", "s5cmd", "cli-utils"]
        {
            let product = Product::named(name).unwrap();
            assert!(product.version().unwrap().starts_with('v'), "{name}");
        }
    }

    #[test]
    fn programs_are_named_like_go_names_them() {
        assert_eq!(default_name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(default_name("helm.sh/helm/v3/cmd/helm"), "helm");
        assert_eq!(default_name("github.com/peak/s5cmd/v2"), "s5cmd");
        assert_eq!(default_name("example.com/versity"), "versity");
    }

    #[test]
    fn kubernetes_is_linked_with_its_version() {
        let flags = Product::Kubernetes.link_flags("v1.36.2");
        assert!(flags.contains("gitVersion=v1.36.2"), "{flags}");
        assert!(flags.ends_with("gitMinor=36"), "{flags}");
    }
}
