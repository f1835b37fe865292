//! The OCI image layout: configuration, manifest and index around the layers, in one tar file.

use super::layer::{StoredLayer, hex};
use super::{Error, Image, Recipe};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const EPOCH: &str = "1970-01-01T00:00:00Z";

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    /// `serde_json` sorts the keys of a [`Value`], so that equal values are equal bytes.
    fn new(value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self { digest: hex(&Sha256::digest(&bytes)), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

/// Writes the archive into `folder`, unless the one that is there is the same.
pub(super) fn write(recipe: &Recipe, layers: &[StoredLayer], folder: &Path) -> Result<Image, Error> {
    let config = Blob::new(&config(recipe, layers));
    let manifest = Blob::new(&manifest(&config, layers));
    let reference = recipe.reference();
    let digest = format!("sha256:{}", manifest.digest);
    let archive = folder.join(format!("{}-{}.tar", recipe.name, recipe.tag));
    let note = archive.with_extension("digest");
    let image = Image { reference, digest, archive };
    if image.archive.exists() && fs::read_to_string(&note).is_ok_and(|text| text == image.digest) {
        return Ok(image);
    }
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let _ = fs::remove_file(&note);
    let file = tempfile::NamedTempFile::new_in(folder).map_err(Error::file(folder))?;
    let mut out = BufWriter::new(file);
    write_layout(&mut out, &image, &config, &manifest, layers).map_err(Error::file(&image.archive))?;
    let file = out.into_inner().map_err(|error| Error::file(folder)(error.into_error()))?;
    file.persist(&image.archive).map_err(|error| Error::file(&image.archive)(error.error))?;
    fs::write(&note, &image.digest).map_err(Error::file(&note))?;
    Ok(image)
}

fn config(recipe: &Recipe, layers: &[StoredLayer]) -> Value {
    let mut environment = recipe.env.clone();
    environment.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    let environment: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut process = json!({"User": recipe.user, "WorkingDir": recipe.workdir, "Env": environment});
    for (name, words) in [("Entrypoint", &recipe.entrypoint), ("Cmd", &recipe.cmd)] {
        if !words.is_empty() {
            process[name] = json!(words);
        }
    }
    let digests: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.sha256)).collect();
    let history = json!({"created": EPOCH, "created_by": "trainyard-e2e image build"});
    json!({
        "architecture": architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": vec![history; layers.len()],
    })
}

fn manifest(config: &Blob, layers: &[StoredLayer]) -> Value {
    let layer = |layer: &StoredLayer| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{}", layer.sha256),
            "size": layer.size,
        })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn index(image: &Image, manifest: &Blob) -> Value {
    let mut descriptor = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    descriptor["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let tag = image.reference.rsplit(':').next().unwrap_or_default();
    descriptor["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": tag,
    });
    let media_type = "application/vnd.oci.image.index.v1+json";
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor]})
}

fn write_layout(
    out: impl Write,
    image: &Image,
    config: &Blob,
    manifest: &Blob,
    layers: &[StoredLayer],
) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let header = |size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(size);
        header
    };
    let index = index(image, manifest).to_string();
    let texts = [
        ("oci-layout".to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}".as_slice()),
        ("index.json".to_owned(), index.as_bytes()),
        (format!("blobs/sha256/{}", config.digest), config.bytes.as_slice()),
        (format!("blobs/sha256/{}", manifest.digest), manifest.bytes.as_slice()),
    ];
    for (path, bytes) in texts {
        tar.append_data(&mut header(bytes.len() as u64), path, bytes)?;
    }
    for layer in layers {
        let file = File::open(&layer.path)?;
        tar.append_data(&mut header(layer.size), format!("blobs/sha256/{}", layer.sha256), file)?;
    }
    tar.finish()
}

/// This machine's architecture, as Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
