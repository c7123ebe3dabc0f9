//! `pointsman serve`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use pointsman::app::{App, Options, Parts, artefacts, demonstration, reload};
use pointsman::config::{self, Config, LogFormat, Source};
use pointsman::demo::{self, LoadSettings};
use pointsman::providers::simulated::{self, Recorded};
use pointsman::server;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

/// Threads that may wait for the disk at the same time; whoever comes then waits for one of them. Each holds a stack
/// and a reader's page cache.
const MOST_BLOCKING_THREADS: usize = 32;
/// How long tasks that were cut off may take to end.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// What the environment says, for `--help`.
const ENVIRONMENT: &str = "\
Environment:
  OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY (or GOOGLE_API_KEY), DEEPSEEK_API_KEY, DASHSCOPE_API_KEY (Qwen),
  MISTRAL_API_KEY, OPENROUTER_API_KEY
                      Without --config, every provider whose key is set is used, with the catalogue's models and prices
  OPENAI_BASE_URL, ANTHROPIC_BASE_URL, ...
                      Another address of a provider
  POINTSMAN_API_KEY   The key that clients must send; needed to listen on more than this machine
  PORT                Overrides the port
  RUST_LOG            What is logged, such as pointsman=debug";

/// Serve the proxy. Without a configuration file it builds one from the environment: every provider whose key is set.
#[derive(Args, Clone, Debug)]
#[command(after_help = ENVIRONMENT)]
pub struct ServeArgs {
    /// The configuration file (TOML); read again when it changes or on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Simulated providers and a small load: see routing learn without a key or a network
    #[arg(long, conflicts_with = "config")]
    demo: bool,
    /// The address to listen on, in place of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
    /// The folder of the shipped models and projections; by default the working directory's, or the one that lies with
    /// the program
    #[arg(
        long,
        value_name = "DIR",
        default_value = "models",
        env = "POINTSMAN_MODELS_DIR"
    )]
    pub models_dir: PathBuf,
    /// Where the demo keeps its database and reports
    #[arg(long, value_name = "DIR", default_value = "data", requires = "demo")]
    data_dir: PathBuf,
    /// Seed of every draw; default: from the clock
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Serves until it is told to stop.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = configuration(args)?;
    start_log(&config, args.demo);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MOST_BLOCKING_THREADS)
        .build()?;
    let app = runtime.block_on(serve(args, config))?;
    // What was cut off at the limit ends with its tasks, and what it has used is still booked.
    runtime.shutdown_timeout(ABORT_LIMIT);
    app.store.close();
    Ok(())
}

fn configuration(args: &ServeArgs) -> anyhow::Result<Config> {
    let mut config = if args.demo {
        demo_config(args, demo::opening_toml)?
    } else {
        config::load(args.config.as_deref(), &config::process_env).map_err(|problems| match args.config {
            Some(_) => anyhow::anyhow!("the configuration cannot be used:\n{problems}"),
            // Nothing was configured: the problem is the whole sentence.
            None => anyhow::anyhow!("{problems}"),
        })?
    };
    if let Some(listen) = args.listen {
        if !listen.ip().is_loopback() && config.server.api_keys.is_empty() {
            bail!(
                "{listen} is not a loopback address: set a client key (POINTSMAN_API_KEY) before others can reach it"
            );
        }
        config.server.listen = listen;
    }
    Ok(config)
}

/// One of the demo's configurations.
fn demo_config(args: &ServeArgs, write: fn(&Recorded, &str, &Path) -> String) -> anyhow::Result<Config> {
    let recorded = simulated::recorded().context("the demo's recorded figures are broken")?;
    let listen = args
        .listen
        .map_or_else(demo_address, |address| address.to_string());
    config::parse(&write(&recorded, &listen, &args.data_dir), Source::Text, &|_| {
        None
    })
    .map_err(|problems| anyhow::anyhow!("the demo's configuration cannot be used:\n{problems}"))
}

/// The demo's address: `PORT` overrides the port, as everywhere.
fn demo_address() -> String {
    let port = config::process_env("PORT").unwrap_or_else(|| "8080".to_owned());
    format!("127.0.0.1:{port}")
}

fn start_log(config: &Config, demo: bool) {
    // The demo has a screen of its own; there only warnings are worth a line.
    let default = if demo { "warn" } else { config.log.filter.as_str() };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(args: &ServeArgs, config: Config) -> anyhow::Result<App> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let source = config.source.clone();
    let limit = Duration::from_millis(config.server.shutdown_limit_ms);
    let listener = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: is another server there? Set PORT or --listen",
            config.server.listen
        )
    })?;
    let address = listener.local_addr()?;
    let seed = args
        .seed
        .unwrap_or_else(|| pointsman::clock::wall().0.unsigned_abs());
    let options = Options {
        models_dir: args.models_dir.clone(),
        seed,
    };
    let app = Parts::start(config, &options)?;
    tokio::spawn(artefacts::watch(Arc::downgrade(&app), args.models_dir.clone()));
    if let Source::File(path) = source {
        tokio::spawn(reload::watch(Arc::downgrade(&app), path));
    }
    let told = told_to_stop()?;
    say(&format!("listening on http://{address}"))?;
    let load = if args.demo {
        let newcomer = demo_config(args, demo::config_toml)?;
        let reports = args.data_dir.join("reports").display().to_string();
        let settings = LoadSettings {
            reports,
            ..LoadSettings::new(&format!("http://{address}"))
        };
        Some(tokio::spawn(demonstrate(Arc::clone(&app), settings, newcomer)))
    } else {
        None
    };
    let stopping = Arc::clone(&app);
    let stop = async move {
        told.await;
        // The demo's own load first: it would find nobody to ask, and say so on its screen.
        if let Some(load) = load {
            load.abort();
        }
        stopping.begin_stop();
        tracing::info!("stopping: no new requests, those under way may end");
    };
    drain(listener, &app, limit, stop).await?;
    app.stop().await;
    Ok(app)
}

/// Serves until told to stop, and then no longer than the limit.
async fn drain(
    listener: TcpListener,
    app: &App,
    limit: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (told, mut heard) = tokio::sync::watch::channel(());
    let stop = async move {
        stop.await;
        drop(told);
    };
    tokio::select! {
        ended = async {
            server::serve(listener, Arc::clone(app), stop).await?;
            // Runs under an idempotency key go on without their client.
            app.dispatcher.idle().await;
            anyhow::Ok(())
        } => ended?,
        () = async {
            // The sender only ever goes away.
            let _ = heard.changed().await;
            tokio::time::sleep(limit).await;
        } => tracing::warn!(running = app.dispatcher.in_flight(), "answers are cut off at the shutdown limit"),
    }
    Ok(())
}

async fn demonstrate(app: App, settings: LoadSettings, newcomer: Config) {
    let newcomer = (demonstration::NEWCOMER_AFTER, newcomer);
    let shown = demonstration::run(&app, &settings, newcomer, &mut std::io::stdout()).await;
    if let Err(error) = shown {
        tracing::error!(%error, "the demo's load stopped");
    }
}

/// Waits for SIGINT or SIGTERM, from the call on: whoever reads the address may tell the program to stop at once, before
/// anything waits.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// The address is the first line of standard output, so that whoever starts the program can read it there.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}
