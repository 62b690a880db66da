//! Connections to servers: directly or through a proxy, with TLS where the address asks for it.
//!
//! ureq speaks HTTP and opens sockets. TLS is put on here, because verification needs more than ureq's own offers
//! ([`certificates`](super::certificates)), and so is the form of request that a proxy wants for an http address.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, LazyBuffers, NextTimeout, SocksConnector,
    TcpConnector, Transport, TransportAdapter,
};
use ureq::{Agent, ProxyProtocol};

use super::HubOptions;
use super::certificates::Trust;
use super::options::CertificateSource;
use super::proxies::{Proxies, Proxy};
use super::proxy::{Protocol, Server};
use crate::{Error, Result};

/// Agents for every kind of address, each made when it is first needed: one without TLS reads no certificates.
pub(super) struct Connections {
    timeout: Duration,
    proxies: Proxies,
    sources: Vec<CertificateSource>,
    trust: OnceLock<Trust>,
    /// http and https, directly and through a proxy.
    agents: [OnceLock<Agent>; 4],
}

/// How an address is reached.
pub(super) struct Route<'a> {
    pub(super) agent: &'a Agent,
    pub(super) proxy: Option<&'a Proxy>,
    /// `Proxy-Authorization`, where it is part of the request itself.
    pub(super) authorization: Option<String>,
}

impl Connections {
    pub(super) fn new(options: &HubOptions) -> Self {
        Self {
            timeout: options.timeout,
            proxies: options.proxies.clone(),
            sources: options.certificates.clone(),
            trust: OnceLock::new(),
            agents: Default::default(),
        }
    }

    fn config(&self, proxy: Option<ureq::Proxy>) -> Config {
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(self.timeout))
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(self.timeout))
            .user_agent(concat!("ettin-run/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy)
            .build()
    }

    /// What to ask for an address with.
    ///
    /// # Errors
    /// [`Error::Hub`] for a proxy that is none, or certificates that cannot be read.
    pub(super) fn route(&self, target: &Uri) -> Result<Route<'_>> {
        let scheme = target.scheme_str().unwrap_or_default();
        let secure = scheme == "https";
        let port = target.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let proxy = self.proxies.choose(scheme, target.host().unwrap_or_default(), port);
        let server = proxy.map(Proxy::server).transpose()?;
        let slot = &self.agents[usize::from(secure) + 2 * usize::from(proxy.is_some())];
        let agent = match slot.get() {
            Some(agent) => agent,
            None => {
                let agent = self.agent(secure, proxy.zip(server.as_ref()))?;
                slot.get_or_init(|| agent)
            }
        };
        let asks = server.filter(|server| !secure && server.protocol == Protocol::Http);
        let authorization = asks
            .and_then(|server| server.credentials)
            .map(|(user, password)| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
        Ok(Route { agent, proxy, authorization })
    }

    /// What is trusted, once it was needed.
    pub(super) fn trust(&self) -> Option<&Trust> {
        self.trust.get()
    }

    fn agent(&self, secure: bool, proxy: Option<(&Proxy, &Server)>) -> Result<Agent> {
        let over_tls = proxy.is_some_and(|(_, server)| server.protocol == Protocol::Https);
        let config = if secure || over_tls { Some(self.loaded_trust()?.config.clone()) } else { None };
        let tls = Tls { config };
        let names = DefaultResolver::default();
        let Some((proxy, server)) = proxy else {
            let connector = ().chain(TcpConnector::default()).chain(tls);
            return Ok(Agent::with_parts(self.config(None), connector, names));
        };
        let wrong = |message: String| Error::Hub { url: proxy.variable().to_owned(), message };
        if server.protocol == Protocol::Http && !secure {
            let address = format!("http://{}:{}", server.host, server.port);
            let proxy = address.parse().map_err(|error| wrong(format!("not a proxy's address: {error}")))?;
            let connector = ().chain(TcpConnector::default()).chain(AbsoluteForm);
            return Ok(Agent::with_parts(self.config(None), connector, AlwaysAt { proxy, names }));
        }
        let protocol = match server.protocol {
            Protocol::Http => ProxyProtocol::Http,
            Protocol::Https => ProxyProtocol::Https,
            Protocol::Socks5 => ProxyProtocol::Socks5h,
        };
        let mut builder = ureq::Proxy::builder(protocol).host(&server.host).port(server.port).resolve_target(false);
        if let Some((user, password)) = &server.credentials {
            builder = builder.username(user).password(password);
        }
        let built = builder.build().map_err(|error| wrong(format!("not a proxy's address: {error}")))?;
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(tls);
        Ok(Agent::with_parts(self.config(Some(built)), connector, names))
    }

    fn loaded_trust(&self) -> Result<&Trust> {
        match self.trust.get() {
            Some(trust) => Ok(trust),
            None => {
                let trust = Trust::load(&self.sources)?;
                Ok(self.trust.get_or_init(|| trust))
            }
        }
    }
}

/// Resolves every address to that of a proxy.
#[derive(Debug)]
struct AlwaysAt {
    proxy: Uri,
    names: DefaultResolver,
}

impl Resolver for AlwaysAt {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.names.resolve(&self.proxy, config, timeout)
    }
}

/// Writes whole addresses into request lines, which is how a proxy is told where an http request goes. (A tunnel, which
/// `CONNECT` asks for, is refused by most proxies to any port but 443.)
#[derive(Debug)]
struct AbsoluteForm;

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = Absolute<In>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let authority = details.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let origin = format!("http://{authority}");
        Ok(chained.map(|inner| Absolute { inner, origin }))
    }
}

#[derive(Debug)]
struct Absolute<In> {
    inner: In,
    origin: String,
}

impl<In: Transport> Transport for Absolute<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.inner.buffers().output();
        let method = ["GET /", "HEAD /"].into_iter().find(|start| output[..amount].starts_with(start.as_bytes()));
        let Some(method) = method else {
            return self.inner.transmit_output(amount, timeout);
        };
        let (at, origin) = (method.len() - 1, self.origin.as_bytes());
        let total = amount + origin.len();
        if total > output.len() {
            let reason = "the address is too long for a proxy";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason).into());
        }
        output.copy_within(at..amount, at + origin.len());
        output[at..at + origin.len()].copy_from_slice(origin);
        self.inner.transmit_output(total, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// Puts TLS on a connection where the address asks for it.
struct Tls {
    /// `None` where none of the addresses does.
    config: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Box::new(transport)));
        }
        let config = self.config.clone().ok_or(ureq::Error::TlsRequired)?;
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let connection = ClientConnection::new(config, name).map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut stream = StreamOwned::new(connection, TransportAdapter::new(boxed, details.current_time.clone()));
        stream.sock.set_timeout(details.timeout);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Box::new(Secured { buffers, stream })))
    }
}

struct Secured {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secured")
    }
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
