//! The cluster's own certificate authority, its certificates and kubeconfigs.

use super::plan::Plan;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A certificate or kubeconfig could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making a key or signing failed.
    #[error("failed to make the certificate of {name}: {source}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A file could not be written.
    #[error("failed to write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Who a client is to the API server.
struct Client {
    /// File name of its kubeconfig.
    file: &'static str,
    user: String,
    group: Option<&'static str>,
    /// Whether it runs on the node, where loopback is another one.
    on_node: bool,
}

fn clients(plan: &Plan) -> Vec<Client> {
    let client = |file, user: &str, group, on_node| Client { file, user: user.to_owned(), group, on_node };
    vec![
        client("admin", "trainyard-admin", Some("system:masters"), false),
        client("controller-manager", "system:kube-controller-manager", None, false),
        client("scheduler", "system:kube-scheduler", None, false),
        client("kwok", "trainyard-kwok", Some("system:masters"), false),
        client("kubelet", &format!("system:node:{}", plan.node()), Some("system:nodes"), true),
        client("proxy", "system:kube-proxy", None, true),
        client("coredns", super::config::COREDNS_USER, None, true),
    ]
}

/// Writes all keys, certificates and kubeconfigs of a cluster below its configuration folder.
pub fn write(plan: &Plan) -> Result<(), Error> {
    let authority = Authority::new(plan)?;
    put(&plan.config("pki/ca.crt"), &authority.certificate)?;
    put(&plan.config("pki/ca.key"), &authority.issuer.key().serialize_pem())?;

    let accounts = KeyPair::generate().map_err(failed("service accounts"))?;
    put(&plan.config("pki/accounts.key"), &accounts.serialize_pem())?;
    put(&plan.config("pki/accounts.pub"), &accounts.public_key_pem())?;

    let server_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        &plan.host_address(),
        &plan.api_service(),
    ];
    authority.serve(plan, "apiserver", "kube-apiserver", &server_names)?;
    let node_names = [plan.node(), plan.node_address(), "127.0.0.1".to_owned()];
    authority.serve(plan, "kubelet-server", &plan.node(), &node_names.each_ref().map(String::as_str))?;

    let (key, certificate) = authority.client("trainyard-apiserver", Some("system:masters"))?;
    put(&plan.config("pki/apiserver-kubelet.key"), &key)?;
    put(&plan.config("pki/apiserver-kubelet.crt"), &certificate)?;

    for client in clients(plan) {
        let (key, certificate) = authority.client(&client.user, client.group)?;
        let server = if client.on_node { plan.node_server() } else { plan.local_server() };
        let path = plan.config(&format!("{}.conf", client.file));
        put(&path, &kubeconfig(plan, &server, &authority.certificate, &certificate, &key))?;
    }
    Ok(())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(plan: &Plan) -> Result<Self, Error> {
        let name = format!("trainyard-{}-ca", plan.name());
        let key = KeyPair::generate().map_err(failed(&name))?;
        let mut params = named(&name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed(&name))?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    fn serve(&self, plan: &Plan, file: &str, common_name: &str, names: &[&str]) -> Result<(), Error> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .map_err(failed(common_name))?;
        params.distinguished_name = named(common_name, None).distinguished_name;
        let (key, certificate) = self.sign(params, common_name, ExtendedKeyUsagePurpose::ServerAuth)?;
        put(&plan.config(&format!("pki/{file}.key")), &key)?;
        put(&plan.config(&format!("pki/{file}.crt")), &certificate)
    }

    fn client(&self, user: &str, group: Option<&str>) -> Result<(String, String), Error> {
        self.sign(named(user, group), user, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(String, String), Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(failed(name))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed(name))?;
        Ok((key.serialize_pem(), certificate.pem()))
    }
}

/// A certificate of a user or a service. Users are told by their common name, groups by their organisation.
fn named(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(group) = organization {
        name.push(DnType::OrganizationName, group);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params
}

/// JSON is YAML, and needs no writer of its own.
fn kubeconfig(plan: &Plan, server: &str, authority: &str, certificate: &str, key: &str) -> String {
    let name = plan.node();
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": base64(authority)}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": base64(certificate),
            "client-key-data": base64(key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
    .to_string()
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn put(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let _ = fs::remove_file(path);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Certificate { name, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use std::process::Command;

    #[test]
    fn certificates_chain_to_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::new("pki", 3, folder.path().to_owned());
        write(&plan).unwrap();
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-CAfile"]).arg(plan.config("pki/ca.crt")).arg(plan.config("pki/apiserver.crt"));
        command::run(&mut verify).unwrap();
        let mut show = Command::new("openssl");
        show.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(plan.config("pki/apiserver.crt"));
        let names = command::run(&mut show).unwrap();
        assert!(names.contains("IP Address:10.245.3.1"), "{names}");
        assert!(names.contains("DNS:kubernetes.default.svc"), "{names}");
    }
}
