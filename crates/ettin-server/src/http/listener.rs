//! Where connections come from: an address, or a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::path::PathBuf;

#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, TcpStream};

use super::ServerOptions;
use crate::error::ServeError;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of the file system.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is bound.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(SocketFile),
}

/// A Unix socket, whose file goes when it goes.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever comes next takes its place all the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What has connected.
pub(super) enum Accepted {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Listener {
    /// # Errors
    /// Where the address cannot be bound, or the socket is in use.
    pub(super) async fn bind(options: &ServerOptions) -> Result<(Self, Endpoint), ServeError> {
        let cannot = |place: &str, error: io::Error| {
            let next = match error.kind() {
                io::ErrorKind::AddrInUse => "; another program listens there: end it, or choose another port",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
                io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
                _ => "",
            };
            ServeError::internal(format!("cannot listen on {place}: {error}{next}"))
        };
        let Some(path) = &options.unix_socket else {
            let place = options.address.to_string();
            let listener = TcpListener::bind(options.address).await.map_err(|error| cannot(&place, error))?;
            let address = listener.local_addr().map_err(|error| cannot(&place, error))?;
            return Ok((Self::Tcp(listener), Endpoint::Tcp(address)));
        };
        #[cfg(unix)]
        {
            let place = path.display().to_string();
            let listener = bind_file(path)
                .map_err(|error| ServeError::internal(format!("cannot listen on the socket {place}: {error}")))?;
            let file = SocketFile { listener, path: path.clone() };
            Ok((Self::Unix(file), Endpoint::Unix(path.clone())))
        }
        #[cfg(not(unix))]
        Err(ServeError::internal(format!("cannot listen on {}: this system has no Unix sockets", path.display())))
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small, and clients wait for them.
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(file) => Ok(Accepted::Unix(file.listener.accept().await?.0)),
        }
    }
}

/// Binds a socket; one that a killed server has left behind is taken away first.
#[cfg(unix)]
fn bind_file(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::UnixStream;
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            let message = "there is a file that is no socket; move it away or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        if UnixStream::connect(path).is_ok() {
            let message = "another program listens there; end it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

impl Accepted {
    /// Says that there are too many, without waiting for anything.
    pub(super) fn turn_away(self, answer: &[u8]) {
        use std::io::Write;
        // Who cannot take so little at once learns it from the closed connection.
        match self {
            Self::Tcp(stream) => {
                let _ = stream.into_std().and_then(|mut stream| stream.write_all(answer));
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                let _ = stream.into_std().and_then(|mut stream| stream.write_all(answer));
            }
        }
    }
}
