//! Accepts connections and serves them until told to stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

/// How long a client may take to send the head of a request, counted from its first byte or, on a connection that is
/// kept open, from the end of the answer before. Longer than browsers and SDKs keep idle connections, so that
/// it is they who close them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(330);
/// Pause after an error that says that the machine, not the connection, is at its limits (no file descriptors left).
const BREATH: Duration = Duration::from_millis(250);

/// Answers until `stop` resolves, and then until every answer under way has ended. Idle connections are closed then.
///
/// # Errors
/// When the listener itself is of no use any more.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let builder = Arc::new(builder);
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let service = TowerToHyperService::new(router.clone());
                    let builder = Arc::clone(&builder);
                    let watcher = connections.watcher();
                    tokio::spawn(async move {
                        let connection = builder.serve_connection(TokioIo::new(unhurried(socket)), service);
                        if let Err(error) = watcher.watch(connection).await {
                            tracing::debug!(%error, "a connection ended badly");
                        }
                    });
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted; trying again");
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

/// Without Nagle's algorithm: with it, the end of a small answer waits for the client's delayed acknowledgement, some
/// 40 ms.
fn unhurried(socket: TcpStream) -> TcpStream {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    socket
}

/// The client went away before it was served.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
