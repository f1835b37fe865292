//! The command line: what is asked for, and what is printed. Data goes to standard output, all else to standard error.

use clap::{Args, Parser, Subcommand};
use e2e::bench::{self, Measure};
use e2e::build::Product;
use e2e::cluster::{self, Cluster, Options};
use e2e::paths::Directories;
use e2e::store::{self, Access, LocalVersity};
use e2e::{bucket, demo, image, install, progress};
use std::error::Error;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

/// A real Kubernetes on this machine, images without a container engine, and S3 stores.
#[derive(Debug, Parser)]
#[command(name = "trainyard-e2e", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Debug, Subcommand)]
enum Topic {
    /// Start, stop and look at clusters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Make images from the recipes of deploy/images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// S3 servers.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Run a command with the pinned kubectl and helm first on its PATH: tools -- charts/test.sh
    Tools {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Build operator and runner and install the chart.
    Install {
        #[command(flatten)]
        cluster: Which,
    },
    /// From nothing to a trained model: cluster, store, Trainyard, sources, and one run of examples/iris.
    Demo {
        #[command(flatten)]
        name: Name,
        /// Only bring everything up and apply the pipeline: no run.
        #[arg(long)]
        prepare: bool,
        /// examples/gitops-iris instead: commits, reverts and new data, and what becomes of the model.
        #[arg(long, conflicts_with = "prepare")]
        gitops: bool,
    },
    /// Measure what the documents claim; writes target/bench/results.json.
    Bench {
        /// The cluster: one of its own, so that nothing else is going on there.
        #[arg(long, default_value = "bench")]
        name: String,
        /// Only these, separated by commas; all if not said.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Measure>,
        /// How often each arm is measured; figures of fewer than 5 are not for quoting.
        #[arg(long, default_value_t = 5)]
        repeat: usize,
        /// Measure nothing: write the figures of the last time into docs/performance.md.
        #[arg(long, conflicts_with_all = ["only", "repeat"])]
        document: bool,
    },
}

#[derive(Debug, Args)]
struct Name {
    /// The cluster: several can live on one machine.
    #[arg(long, default_value_t = cluster::default_name())]
    name: String,
}

#[derive(Debug, Args)]
struct Which {
    /// The cluster; without it, that of KUBECONFIG, else main.
    #[arg(long)]
    name: Option<String>,
}

impl Which {
    fn find(&self) -> Result<Cluster, cluster::Error> {
        Cluster::current(self.name.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Bring a cluster up, from whatever state, and print the path of its kubeconfig.
    Up {
        #[command(flatten)]
        name: Name,
        /// Only the API server and its store, on loopback: no node, no root.
        #[arg(long)]
        control_plane: bool,
        /// With the controllers; a full cluster has them anyway.
        #[arg(long, requires = "control_plane")]
        with_controller_manager: bool,
        /// Add this many nodes of KWOK, whose Pods run and succeed at once.
        #[arg(long, value_name = "N", default_value_t = 0)]
        kwok: u32,
    },
    /// Stop a cluster and remove all that it made, the logs excepted.
    Down {
        #[command(flatten)]
        name: Name,
        /// The logs, too.
        #[arg(long)]
        wipe: bool,
    },
    /// List the components; fails unless all of them run.
    Status(Name),
    /// Print what makes a shell use the cluster: eval "$(trainyard-e2e cluster env)".
    Env(Name),
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make archives and print their paths.
    Build {
        /// Names of recipes; none means all.
        names: Vec<String>,
    },
    /// Make images and bring them to the cluster; prints the names under which it finds them.
    Load {
        #[command(flatten)]
        cluster: Which,
        /// Names of recipes; none means all.
        names: Vec<String>,
    },
    /// List the recipes and the images that they make.
    List,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Start an S3 server in the cluster and print how it is reached from there.
    Up {
        #[command(flatten)]
        cluster: Which,
        /// Its namespace.
        #[arg(long, default_value = store::NAMESPACE)]
        namespace: String,
    },
    /// Copy a file into the store in the cluster: store put data.csv s3://trainyard/raw/data.csv
    Put {
        #[command(flatten)]
        cluster: Which,
        /// Namespace of the store.
        #[arg(long, default_value = store::NAMESPACE)]
        namespace: String,
        /// The file.
        file: std::path::PathBuf,
        /// Where it goes: s3://bucket/key.
        to: String,
    },
    /// Print an object of the store in the cluster: store get s3://trainyard/raw/data.csv
    Get {
        #[command(flatten)]
        cluster: Which,
        /// Namespace of the store.
        #[arg(long, default_value = store::NAMESPACE)]
        namespace: String,
        /// The object: s3://bucket/key.
        from: String,
    },
    /// Start an S3 server on this machine, run a command with its address in the environment, stop it.
    ///
    /// The command sees `TRAINYARD_TEST_S3_ENDPOINT`, `TRAINYARD_TEST_S3_BUCKET`, `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and `AWS_REGION`.
    Local {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Does what was asked for.
pub(crate) fn run(arguments: Arguments) -> Outcome {
    match arguments.topic {
        Topic::Cluster(command) => cluster(command),
        Topic::Image(command) => images(command),
        Topic::Store(command) => stores(command),
        Topic::Tools { command } => with_tools(&command),
        Topic::Install { cluster } => {
            install::up(&cluster.find()?, &[&demo::default_store()])?;
            Ok(ExitCode::SUCCESS)
        }
        Topic::Demo { name, gitops: true, .. } => {
            demo::gitops(&name.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Topic::Demo { name, prepare: true, .. } => {
            demo::prepare(&name.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Topic::Demo { name, prepare: false, .. } => {
            demo::run(&name.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Topic::Bench { document: true, .. } => figures(&bench::document::write()?),
        Topic::Bench { name, only, repeat, document: false } => {
            let command = format!("trainyard-e2e {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
            figures(&bench::run(&bench::Options { name, only, repeat, command })?)
        }
    }
}

/// A goal that is missed is a finding, not a failure.
fn figures(rows: &[bench::row::Row]) -> Outcome {
    print!("{}", bench::row::table(rows));
    Ok(ExitCode::SUCCESS)
}

fn cluster(command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Up { name, control_plane, with_controller_manager, kwok } => {
            let options = if control_plane { Options::control_plane(&name.name) } else { Options::full(&name.name) };
            let options = if with_controller_manager { options.with_controller_manager() } else { options };
            let cluster = Cluster::up(options.with_kwok(kwok))?;
            if cluster.plan().is_none() {
                progress::line("using the cluster of KUBECONFIG (TRAINYARD_OWN_CLUSTER=1 starts one of our own)");
            }
            println!("{}", cluster.kubeconfig().display());
        }
        ClusterCommand::Down { name, wipe } => cluster::down(&name.name, wipe)?,
        ClusterCommand::Status(name) => return status(&name.name),
        ClusterCommand::Env(name) => {
            let cluster = Cluster::existing(&name.name)?;
            println!("export KUBECONFIG={}", quoted(&cluster.kubeconfig().to_string_lossy()));
            println!("export PATH={}", quoted(&cluster.path().to_string_lossy()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str) -> Outcome {
    let (plan, components) = cluster::status(name)?;
    for (component, pid) in &components {
        match pid {
            Some(pid) => println!("{component:<24} runs     pid {pid}"),
            None => println!("{component:<24} ended    {}", plan.logs().join(format!("{component}.log")).display()),
        }
    }
    println!("{:<24} {}", "kubeconfig", plan.kubeconfig().display());
    let all = !components.is_empty() && components.iter().all(|(_, pid)| pid.is_some());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn images(command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build { names } => {
            for name in chosen(names)? {
                let image = image::build(&name)?;
                println!("{} {} {}", image.reference, image.digest, image.archive.display());
            }
        }
        ImageCommand::Load { cluster, names } => {
            let cluster = cluster.find()?;
            for name in chosen(names)? {
                let image = image::build(&name)?;
                println!("{}", image::load(&cluster, &image)?);
            }
        }
        ImageCommand::List => {
            for name in image::names()? {
                println!("{name:<28} {}", image::recipe(&name)?.reference());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: Vec<String>) -> Result<Vec<String>, image::Error> {
    if names.is_empty() { image::names() } else { Ok(names) }
}

/// Runs a command with the pinned tools first on its `PATH`.
fn with_tools(command: &[OsString]) -> Outcome {
    let directories = Directories::from_env();
    let products = [Product::Kubernetes, Product::Helm, Product::CliUtils];
    let mut path = products.into_iter().map(|product| product.ensure(&directories)).collect::<Result<Vec<_>, _>>()?;
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path)?;
    through(command, |program| {
        program.env("PATH", &path);
    })
}

/// Runs a command to its end and passes its exit code on.
fn through(command: &[OsString], prepare: impl FnOnce(&mut Command)) -> Outcome {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::FAILURE) };
    let mut child = Command::new(program);
    child.args(arguments);
    prepare(&mut child);
    let status = child.status().map_err(|error| format!("cannot run {}: {error}", program.to_string_lossy()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Bucket and key of `s3://bucket/key`.
fn object(uri: &str) -> Result<(&str, &str), String> {
    uri.strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
        .ok_or_else(|| format!("{uri} is not s3://bucket/key"))
}

fn stores(command: StoreCommand) -> Outcome {
    match command {
        StoreCommand::Put { cluster, namespace, file, to } => {
            let (bucket, key) = object(&to)?;
            bucket::upload(&cluster.find()?, &namespace, &store::access(&namespace), bucket, key, &file)?;
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Get { cluster, namespace, from } => {
            use std::io::Write as _;
            let (bucket, key) = object(&from)?;
            let connection = bucket::Connection::open(&cluster.find()?, &namespace, &store::access(&namespace))?;
            std::io::stdout().write_all(&connection.get(bucket, key)?)?;
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Up { cluster, namespace } => {
            let access = store::up(&cluster.find()?, &namespace)?;
            let Access { endpoint, bucket, .. } = &access;
            println!("endpoint {endpoint}\nbucket   {bucket}\nsecret   {namespace}/{}", store::SECRET);
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Local { command } => {
            let store = LocalVersity::start()?;
            through(&command, |program| {
                program.envs(store.variables());
            })
        }
    }
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
